"""The disturbance of the wall clock."""

from __future__ import annotations

import functools
import mmap
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mendflow_server.runtime.clock import SystemClock

if TYPE_CHECKING:
    from tests.support.build import Build

#: A file in the server's own directory with the offset of its wall clock in seconds: eight bytes, a float.
CLOCK: Final = Path("clock")
_OFF: Final = struct.Struct("d")


def set_clock(directory: Path, off: float) -> None:
    """Set the wall clock of a server that has the disturbance `jumping_clock`."""
    descriptor = os.open(directory / CLOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, _OFF.pack(off), 0)
    finally:
        os.close(descriptor)


def jumping_clock(build: Build) -> Build:
    """A disturbance: a wall clock that the test sets while the server runs."""
    with CLOCK.open("rb") as file:
        off = mmap.mmap(file.fileno(), _OFF.size, prot=mmap.PROT_READ)
    wall = time.time
    jumping = functools.partial(SystemClock, wall=lambda: wall() + float(_OFF.unpack_from(off)[0]))
    return build.with_parts(clock=jumping)
