"""A server whose power is cut: after a SIGKILL it finds no more on its disk than what it had synced.

The library of `platter.c`, loaded into the real server, keeps what each of the store's files held when it was last
synced. That is the least that a disk holds after a power cut. It may hold more: of what was written since then, any
sector may have got there, and any may not. A cut draws how much of it did.
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

#: The files that a store's data is in.
SUFFIXES: Final = ("", "-wal", "-journal")
SECTOR: Final = 512

#: A database is made, and something is put into it.
_PROBE: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("pragma synchronous = full")
connection.execute("create table things (thing)")
"""


def build_platter(directory: Path, source: Path) -> Path:
    """Answer the library, or skip the test where it cannot be had."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD and /proc are Linux's")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc or gcc)")
    library = directory / "platter.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl", "-pthread"], check=True)
    store, platter = directory / "probe.db", directory / "platter"
    platter.mkdir()
    environment = {**os.environ, **loading(library, store, platter)}
    subprocess.run([sys.executable, "-c", _PROBE, store], check=True, env=environment)
    if not syncs(platter)[""]:
        pytest.skip("this Python's SQLite does not sync by the C library's functions, so none of its syncs is seen")
    return library


def loading(library: Path, store: Path, platter: Path) -> dict[str, str]:
    """Answer the variables that load the library into a process with this store."""
    return {"LD_PRELOAD": str(library), "PLATTER_STORE": str(store), "PLATTER": str(platter)}


def syncs(platter: Path) -> dict[str, int]:
    """Answer how often each of the store's files was synced, by suffix, and its directory."""
    counts = dict.fromkeys((*SUFFIXES, "directory"), 0)
    for line in whole_lines(platter / "syncs"):
        counts[line.rpartition(" ")[0]] += 1
    return counts


def mixed(synced: bytes, written: bytes, share: float, rng: Random) -> tuple[bytes, int]:
    """Answer what was synced, with a share of the sectors that were written since; and how many of these are lost."""
    made, lost = bytearray(synced), 0
    for at in range(0, len(written), SECTOR):
        sector = written[at : at + SECTOR]
        if sector == synced[at : at + len(sector)]:
            continue
        if rng.random() < share:
            made.extend(bytes(max(0, at - len(made))))  # A hole, where the sectors before it are lost.
            made[at : at + len(sector)] = sector
        else:
            lost += 1
    return bytes(made), lost


@dataclass(frozen=True)
class Cut:
    """What a power cut left of the store, and how many written sectors it took."""

    stored: Stored
    lost: int


@dataclass
class PoweredServer(ServerProcess):
    """A server in a process of its own. To kill it is to cut its power."""

    library: Path = field(kw_only=True)
    rng: Random = field(kw_only=True)
    #: Of what was written and not synced, how much may have reached the disk: one of these is drawn for each cut.
    shares: tuple[float, ...] = (0.0,)
    #: One of these is drawn for each life.
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
        """The disk."""
        return self.directory / "platter"

    def start(self, *, wait: bool = True) -> None:
        """Start it on what the disk holds."""
        if self.lives:
            self.faults = self.rng.choice(self.lives)
        super().start(wait=wait)

    def kill(self) -> None:
        """Cut the power."""
        super().kill()
        self.lose_power()

    def stop(self) -> None:
        """End it, if it has not ended."""
        if self.process is not None and self.process.poll() is None:
            super().kill()

    def lose_power(self) -> None:
        """Leave of the store what the disk holds."""
        lost = sum(self._settle(suffix, self.rng.choice(self.shares)) for suffix in SUFFIXES)
        # What else lies beside it (the lock, the note, SQLite's index of the log) is nowhere synced.
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
        """Settle what the disk holds of a file; answer how many written sectors are lost."""
        written = self.store.with_name(self.store.name + suffix)
        kept = self.platter / written.name
        if not kept.exists() or not written.exists() or kept.with_name(f"{kept.name}.unnamed").exists():
            return 0  # Not the same file.
        content, lost = mixed(kept.read_bytes(), written.read_bytes(), share, self.rng)
        kept.write_bytes(content)
        return lost
