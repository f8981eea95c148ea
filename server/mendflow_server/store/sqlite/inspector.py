"""Reading a store's file that another process may own, with no file changed.

SQLite offers three ways to read a database with a write-ahead log, and each fits one situation:

- A log with content, beside its shared memory: a server runs, or was killed. ``readonly_shm`` reads both files and
  writes to neither.
- No log, or an empty one: no server has written since the last clean stop. ``immutable`` reads the database alone.
  Without it SQLite would create a log and shared memory and leave them behind.
- A log without its shared memory: somebody copied the files. SQLite has to create the shared memory.

A server that starts meanwhile writes to its log before it writes to the database. So each immutable read is followed by
a look at the log: if it has content, or the database has changed, the result is dropped and the read is repeated.
"""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from mendflow_server.store.errors import StoreError, StoreRefused
from mendflow_server.store.sqlite.connection import (
    connect_inspector,
    in_read_transaction,
    translate_at_open,
    unavailable,
)
from mendflow_server.store.sqlite.listing import read_page
from mendflow_server.store.sqlite.migrate import refuse_unreadable
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.reader import BYTES_AT_ONCE, EVENTS_AT_ONCE, read_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.store.records import Cursor, Filter, Page

_T = TypeVar("_T")

_IMMUTABLE: Final = "immutable=1"
_SHARED: Final = "readonly_shm=1"
#: What SQLite reports when it would have to write to the shared memory.
_NEEDS_SHARED_MEMORY: Final = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_BUSY}
)
#: Files that change more often than this between a read and the look after it are busy beyond use.
_TRIES: Final = 10


class SqliteInspector:
    """A store's file, open for reading only. It takes no lock that a server would notice."""

    def __init__(self, path: Path) -> None:
        #: SQLite keeps the log beside the file itself, not beside a link to it.
        self._path = Path(os.path.realpath(path))
        self._log = self._path.with_name(f"{self._path.name}-wal")
        self._connection: sqlite3.Connection | None = None
        self._parameters = ""
        #: How to open a file with a log.
        self._shared = _SHARED
        #: The database as it was when it was opened.
        self._opened: tuple[int, ...] = ()
        if not self._path.is_file():
            what = "is a directory" if self._path.is_dir() else "does not exist"
            message = f"the store {path} {what}; give the file that the server uses"
            raise StoreRefused(message)
        try:
            self._read(lambda connection: refuse_unreadable(connection, self._path))
        except sqlite3.Error as error:
            raise translate_at_open(error, self._path) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def count_open(self) -> int:
        """Return how many workflows have not ended."""
        return self._translated(lambda connection: int(connection.execute(QUERIES["count_open"]).fetchone()[0]))

    def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page, as `Store.list_workflows` does."""
        return self._translated(lambda connection: read_page(connection, condition, limit, after))

    def read_history(self, key: int) -> list[bytes]:
        """Return all events of a workflow."""
        events: list[bytes] = []
        while True:
            read = partial(read_events, key=key, after=len(events), limit=EVENTS_AT_ONCE, max_bytes=BYTES_AT_ONCE)
            some = self._translated(read)
            events.extend(some)
            # The last read shows one commit's end: each sees a single state of the file.
            if not some:
                return events

    def _translated(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return self._read(work)
        except sqlite3.Error as error:
            raise unavailable(error, self._path) from error
        except (UnicodeError, OverflowError, ValueError) as error:
            message = f"the store {self._path} has a malformed value: {error}"
            raise StoreError(message) from error

    def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work`` on a single state of the file, and repeat it when the file was changed or closed meanwhile."""
        failure: Exception | None = None
        for _ in range(_TRIES):
            try:
                result = self._transact(work)
            except (sqlite3.Error, StoreError) as error:
                if not self._may_repeat(error):
                    raise
                failure = error
            else:
                if not self._disturbed():
                    return result
            self.close()
        message = f"the store {self._path} changes all the time; name its server with --server"
        raise StoreError(message) from failure

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._connection is None:
            self._opened = self._state()
            self._parameters = self._shared if self._has_log() else _IMMUTABLE
            self._connection = connect_inspector(self._path, self._parameters)
        return in_read_transaction(self._connection, work)

    def _may_repeat(self, error: Exception) -> bool:
        """Return whether another way to read the file may succeed."""
        if self._disturbed():
            return True
        if self._parameters != _SHARED or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NEEDS_SHARED_MEMORY:
            return False
        # The shared memory is missing, or has no place for a reader that may not write there.
        self._shared = ""
        return True

    def _disturbed(self) -> bool:
        """Return whether a server may have changed the file during an immutable read."""
        return self._parameters == _IMMUTABLE and (self._has_log() or self._opened != self._state())

    def _has_log(self) -> bool:
        try:
            return self._log.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _state(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns
