"""File systems that a test mounts: small ones in memory, and the same directory once more, read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Bytes of a disk that is soon full.
SIZE = 8_000_000


def mount(place: Path, *options: str) -> None:
    """Mount, or skip the test where that is not allowed."""
    done = subprocess.run(["mount", *options, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")


def unmount(place: Path) -> None:
    """Take the newest mount away, also from those who still have files of it open."""
    subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A small file system in memory."""
    mount(place, "-t", "tmpfs", "-o", f"size={SIZE}", "none")
    try:
        yield
    finally:
        unmount(place)


def fill(place: Path) -> Path:
    """Leave no room on a disk; answer what to remove so that there is room again."""
    ballast = place / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4_096))
    assert os.statvfs(place).f_bavail == 0
    return ballast
