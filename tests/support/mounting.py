"""File systems that a test mounts: small ones in memory, and a second, read-only mount of a directory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The bytes of a disk that is full soon.
SIZE = 8_000_000


def mount(place: Path, *options: str) -> None:
    """Mount a file system, or skip the test where that is not allowed."""
    done = subprocess.run(["mount", *options, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")


def unmount(place: Path) -> None:
    """Remove the newest mount, also while processes have files of it open."""
    subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a small file system in memory."""
    mount(place, "-t", "tmpfs", "-o", f"size={SIZE}", "none")
    try:
        yield
    finally:
        unmount(place)


def fill(place: Path) -> Path:
    """Fill a disk, and return the file to remove to free it again."""
    ballast = place / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    assert os.statvfs(place).f_bavail == 0
    return ballast
