"""One server for one file: a lock that ends with the process that holds it, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from mendflow_server.store.protocol import StoreRefused

if TYPE_CHECKING:
    from pathlib import Path


class FileLock:
    """An exclusive ``flock`` on ``<file>.lock``.

    Never on the database itself: closing any descriptor of it would drop SQLite's own locks in this process. The
    lock file is left behind, for removing it would let two servers lock two files of one name.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take it, or raise `StoreRefused` that names the process which has it."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            message = f"the lock file {self._path} cannot be opened: {error.strerror}; make it writable for this server"
            raise StoreRefused(message) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                message = f"{self._path} cannot be locked: {error.strerror}; give a file on a local disk"
                raise StoreRefused(message) from error
            message = (
                f"{self._database} is in use by another server (process {holder or 'unknown'}); "
                "stop that one, or give this one another file"
            )
            raise StoreRefused(message) from None
        self._descriptor = descriptor
        # The number is for a message alone: a full disk, which does not take it, will tell of itself.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release it. Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
