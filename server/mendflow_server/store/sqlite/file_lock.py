"""One server for one file: locks that end with the process that holds them, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import TYPE_CHECKING, Final

from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.sqlite.filesystem import lock_path, refuse_unfit_file
from mendflow_server.store.sqlite.holders import holders_of

if TYPE_CHECKING:
    from pathlib import Path

#: On Linux the two kinds of lock do not see each other. On BSD and macOS a flock would shut SQLite's own locks out.
_APART: Final = sys.platform == "linux"


class FileLock:
    """An exclusive ``flock`` on ``<file>.lock``, and on Linux one on the database itself.

    The lock file is there on every system, and is left behind: removing it
    would let two servers lock two files of one name. The lock on the database
    holds under every path that leads to it, such as a bind mount, and when
    the lock file has been removed.

    Closing any descriptor of the database drops SQLite's own locks in this
    process. So ours is opened before SQLite opens the file, and must be
    released only after SQLite has closed it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = lock_path(database)
        self._descriptors: list[int] = []

    def take(self) -> None:
        """Take both locks. Raises `StoreRefused`, with the process that has the file."""
        # Looked at before it is opened: a refusal must close no descriptor of a database in use.
        with contextlib.suppress(OSError):
            refuse_unfit_file(self._database, self._database.stat())
        try:
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            message = f"the lock file {self._path} cannot be opened: {error.strerror}; make it writable for this server"
            raise StoreRefused(message) from error
        self._lock(lock, self._path)
        if _APART:
            self._lock_database()
        # The number is for a message alone: a full disk, which does not take it, will tell of itself.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _lock_database(self) -> None:
        try:
            # An empty file is a new database to SQLite. Not blocking: it may be a pipe.
            database = os.open(self._database, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self.release()
            message = (
                f"the store {self._database}: it cannot be opened; look whether the file is there and readable "
                f"({error.strerror})"
            )
            raise StoreRefused(message) from error
        self._lock(database, self._database)
        try:
            # Again: it may have been put in another's place meanwhile.
            refuse_unfit_file(self._database, os.fstat(database))
        except StoreRefused:
            self.release()
            raise

    def _lock(self, descriptor: int, path: Path) -> None:
        self._descriptors.append(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                message = self._in_use(descriptor, path)
            else:
                message = f"{path} cannot be locked: {error.strerror}; give a file on a local disk"
            self.release()
            raise StoreRefused(message) from None

    def _in_use(self, descriptor: int, path: Path) -> str:
        """Say which processes have the file. A process that has ended is not named as one that has it."""
        written = _number_in(self._descriptors[0])
        holders = holders_of(descriptor, written)
        if written in holders:
            return (
                f"{self._database} is in use by another server (process {written}); "
                "stop that one, or give this one another file"
            )
        if holders:
            numbers = " ".join(map(str, holders))
            return (
                f"{self._database} is locked by another process ({numbers}), which may be left over from a server that "
                f"has ended; end it (`kill {numbers}`), or give this server another file"
            )
        return (
            f"{self._database} is locked by a process that cannot be seen from here; find it with `fuser {path}` "
            "as root and on the host, and end it, or give this server another file"
        )

    def release(self) -> None:
        """Release both. Safe to call twice."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _number_in(lock: int) -> int:
    """Return the process id that the lock file names, 0 if it names none."""
    text = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0
