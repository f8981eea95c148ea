"""Find the running processes that have a file locked, as far as this process may see them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

__all__ = ["holders_of"]

_PROC: Final = Path("/proc")
#: Of a line of /proc/locks: the kind, the process, and DEVICE:DEVICE:INODE.
_KIND, _PROCESS, _FILE = 1, 4, 5


def holders_of(descriptor: int, written: int) -> list[int]:
    """Return the processes that hold the ``flock`` of this open file, which this process failed to get.

    ``written`` is the process id in the lock file, 0 for none. On Linux the
    result has each process with a descriptor that holds the lock, which forked
    children share. It also has the process that took the lock, as the kernel
    reports, if its descriptors cannot be read. On other systems the result is
    ``written`` if that process is running.
    """
    if not (_PROC / "locks").exists():
        return [written] if _is_running(written) else []
    file = os.fstat(descriptor)
    takers = _takers(file)
    holders = []
    for number in [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]:
        holds = _holds(number, file)
        if holds or (holds is None and number in takers and _is_running(number)):
            holders.append(number)
    return sorted(holders)


def _holds(process: int, file: os.stat_result) -> bool | None:
    """Return whether a process holds the lock; None if its descriptors cannot be read."""
    folder = _PROC / str(process)
    try:
        descriptors = list((folder / "fd").iterdir())
    except PermissionError:
        return None
    except OSError:
        return False  # It has ended.
    for each in descriptors:
        # Any of them may have been closed in the meantime.
        with contextlib.suppress(OSError):
            found = each.stat()
            if (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino):
                locks = (folder / "fdinfo" / each.name).read_text(encoding="ascii", errors="replace")
                if " FLOCK " in locks:
                    return True
    return False


def _takers(file: os.stat_result) -> set[int]:
    """Return the processes that took a ``flock`` on this inode, including those that have ended."""
    try:
        lines = (_PROC / "locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        fields = [field for field in line.split() if field != "->"]
        if len(fields) > _FILE and fields[_KIND] == "FLOCK" and fields[_FILE].endswith(f":{file.st_ino}"):
            found.add(int(fields[_PROCESS]))
    return found


def _is_running(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
