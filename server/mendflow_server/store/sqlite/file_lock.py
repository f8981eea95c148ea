"""Locks that allow one server per file. The kernel releases them when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import TYPE_CHECKING, Final

from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.sqlite.filesystem import check_file, lock_path
from mendflow_server.store.sqlite.holders import holders_of

if TYPE_CHECKING:
    from pathlib import Path

#: On Linux, ``flock`` does not conflict with SQLite's own locks. On BSD and macOS it does.
_APART: Final = sys.platform == "linux"


class FileLock:
    """An exclusive ``flock`` on ``<file>.lock``, and on Linux one on the database itself.

    The lock file exists on every system and is not removed: otherwise two
    servers could lock two files of the same name. The lock on the database
    works under every path to it, such as a bind mount, and also when the lock
    file was removed.

    Closing any descriptor of the database drops SQLite's own locks in this
    process. So this lock must be taken before SQLite opens the file, and
    released after SQLite closes it.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = lock_path(database)
        self._descriptors: list[int] = []

    def take(self) -> None:
        """Take both locks. Raise `StoreRefused`, naming the process that holds the file."""
        # Check before opening: a refusal must not close a descriptor of a database in use.
        with contextlib.suppress(OSError):
            check_file(self._database, self._database.stat())
        try:
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            message = f"cannot open lock file {self._path}: {error.strerror}; make it writable for the server"
            raise StoreRefused(message) from error
        self._lock(lock, self._path)
        if _APART:
            self._lock_database()
        # The process id is only for messages. If the disk is full, the first commit reports it.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _lock_database(self) -> None:
        try:
            # SQLite accepts an empty file as a new database. Do not block: the file may be a pipe.
            database = os.open(self._database, os.O_RDONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self.release()
            message = (
                f"store {self._database}: cannot open the file; check that it exists and is readable ({error.strerror})"
            )
            raise StoreRefused(message) from error
        self._lock(database, self._database)
        try:
            # Check again: the file may have been replaced in the meantime.
            check_file(self._database, os.fstat(database))
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
                message = f"cannot lock {path}: {error.strerror}; use a file on a local disk"
            self.release()
            raise StoreRefused(message) from None

    def _in_use(self, descriptor: int, path: Path) -> str:
        """Return a message with the processes that hold the file. It does not name a process that has ended."""
        written = _number_in(self._descriptors[0])
        holders = holders_of(descriptor, written)
        if written in holders:
            return (
                f"{self._database} is in use by another server (process {written}); "
                "stop that server or use another file"
            )
        if holders:
            numbers = " ".join(map(str, holders))
            return (
                f"{self._database} is locked by another process ({numbers}), which may be left over from a server that "
                f"has ended; stop it (`kill {numbers}`) or use another file"
            )
        return (
            f"{self._database} is locked by a process that is not visible to this server; find it with `fuser {path}` "
            "as root on the host and stop it, or use another file"
        )

    def release(self) -> None:
        """Release both locks. May be called twice."""
        while self._descriptors:
            os.close(self._descriptors.pop())


def _number_in(lock: int) -> int:
    """Return the process id in the lock file; 0 if there is none."""
    text = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdecimal() else 0
