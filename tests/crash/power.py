"""A server whose power is cut: after a SIGKILL its disk holds only what it had synced.

The library of `platter.c`, loaded into the real server, keeps the content of each of the store's files at its last
sync. That is the least that a disk holds after a power cut. The disk may hold more: of the sectors written since then,
each one may be on it or not. A cut draws how many are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.files import whole_lines
from tests.support.promises import read_store
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

    from tests.support.promises import Stored

#: The files that hold a store's data.
SUFFIXES: Final = ("", "-wal", "-journal")
SECTOR: Final = 512

#: A program that makes a database and puts something into it.
_PROBE: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("pragma synchronous = full")
connection.execute("create table things (thing)")
"""


def build_platter(directory: Path, source: Path) -> Path:
    """Return the library, or skip the test where it cannot be built."""
    if sys.platform != "linux":
        pytest.skip("needs Linux, because it uses LD_PRELOAD and /proc")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler: cc or gcc in PATH")
    library = directory / "platter.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl", "-pthread"], check=True)
    store, platter = directory / "probe.db", directory / "platter"
    platter.mkdir()
    environment = {**os.environ, **loading(library, store, platter)}
    subprocess.run([sys.executable, "-c", _PROBE, store], check=True, env=environment)
    if not syncs(platter)[""]:
        pytest.skip("needs a Python whose SQLite syncs through the C library, because the library sees no other sync")
    return library


def loading(library: Path, store: Path, platter: Path) -> dict[str, str]:
    """Return the variables that load the library into a process with this store."""
    return {"LD_PRELOAD": str(library), "PLATTER_STORE": str(store), "PLATTER": str(platter)}


def syncs(platter: Path) -> dict[str, int]:
    """Return how often the directory and each of the store's files were synced, the files by suffix."""
    counts = dict.fromkeys((*SUFFIXES, "directory"), 0)
    for line in whole_lines(platter / "syncs"):
        counts[line.rpartition(" ")[0]] += 1
    return counts


def mixed(synced: bytes, written: bytes, share: float, rng: Random) -> tuple[bytes, int]:
    """Return the synced content with a share of the sectors that were written since, and the number of lost sectors."""
    made, lost = bytearray(synced), 0
    for at in range(0, len(written), SECTOR):
        sector = written[at : at + SECTOR]
        if sector == synced[at : at + len(sector)]:
            continue
        if rng.random() < share:
            made.extend(bytes(max(0, at - len(made))))  # A hole where the sectors before it are lost.
            made[at : at + len(sector)] = sector
        else:
            lost += 1
    return bytes(made), lost


@dataclass(frozen=True)
class Cut:
    """The store's content after a power cut, and how many written sectors were lost."""

    stored: Stored
    lost: int


@dataclass
class PoweredServer(ServerProcess):
    """A server in a process of its own. `kill` cuts its power."""

    library: Path = field(kw_only=True)
    rng: Random = field(kw_only=True)
    #: The shares of the unsynced writes that may have reached the disk. Each cut draws one.
    shares: tuple[float, ...] = (0.0,)
    #: Each life draws one of these.
    lives: tuple[tuple[str, ...], ...] = ()
    on_cut: Callable[[Cut], None] = lambda _cut: None
    cuts: list[Cut] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with an empty disk."""
        self.directory = self.directory.resolve()
        self.platter.mkdir()
        self.environment |= loading(self.library, self.store, self.platter)

    @property
    def platter(self) -> Path:
        """The disk's directory."""
        return self.directory / "platter"

    def start(self, *, wait: bool = True) -> None:
        """Start the server on what the disk holds."""
        if self.lives:
            self.faults = self.rng.choice(self.lives)
        super().start(wait=wait)

    def kill(self) -> None:
        """Cut the power."""
        super().kill()
        self.lose_power()

    def stop(self) -> None:
        """End the server, if it has not ended."""
        if self.process is not None and self.process.poll() is None:
            super().kill()

    def lose_power(self) -> None:
        """Reduce the store to what the disk holds."""
        lost = sum(self._settle(suffix, self.rng.choice(self.shares)) for suffix in SUFFIXES)
        # The other files beside it (the lock, the note, SQLite's index of the log) are never synced.
        for path in self.directory.glob(f"{self.store.name}*"):
            path.unlink()
        copy = self.directory / f"cut-{len(self.cuts)}"
        copy.mkdir()
        for path in self.platter.glob(f"{self.store.name}*"):
            if path.name.removeprefix(self.store.name) in SUFFIXES:
                shutil.copy(path, copy)
                shutil.copy(path, self.directory)
            else:
                path.unlink()
        cut = Cut(read_store(copy / self.store.name), lost)
        self.cuts.append(cut)
        self.on_cut(cut)

    def _settle(self, suffix: str, share: float) -> int:
        """Write what the disk holds of a file, and return how many written sectors are lost."""
        written = self.store.with_name(self.store.name + suffix)
        kept = self.platter / written.name
        if not kept.exists() or not written.exists() or kept.with_name(f"{kept.name}.unnamed").exists():
            return 0  # It is not the same file.
        content, lost = mixed(kept.read_bytes(), written.read_bytes(), share, self.rng)
        kept.write_bytes(content)
        return lost
