"""Read a store's file that another process may own, without changing any file.

SQLite has three ways to read a database with a write-ahead log. Each fits one situation:

- The log has content, and its shared memory exists: a server is running or was killed. ``readonly_shm`` reads both
  files and writes to neither.
- The log is missing or empty: no server has written since the last clean stop. ``immutable`` reads only the database.
  Without it SQLite would create a log and shared memory and leave them behind.
- The log has content, but its shared memory is missing: the files are a copy. SQLite must create the shared memory.

A server that starts during a read writes to its log before it writes to the database. So the inspector checks the log
after each immutable read. If the log has content, or the database has changed, it drops the result and reads again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from mendflow_server.store.errors import StoreError, StoreRefused
from mendflow_server.store.loading import BYTES_AT_ONCE, EVENTS_AT_ONCE
from mendflow_server.store.sqlite.connection import (
    connect_inspector,
    in_read_transaction,
    translate_at_open,
    unavailable,
)
from mendflow_server.store.sqlite.listing import read_page
from mendflow_server.store.sqlite.migrate import check_schema, check_used
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.reader import read_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mendflow_server.store.records import Cursor, Filter, Page

_T = TypeVar("_T")

_IMMUTABLE: Final = "immutable=1"
_SHARED: Final = "readonly_shm=1"
#: The errors that SQLite reports if it would have to write to the shared memory.
_NEEDS_SHARED_MEMORY: Final = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_BUSY}
)
#: The inspector gives up after this many reads that a change of the files disturbed.
_TRIES: Final = 10


class _Within(Protocol):
    """A way to run work on a connection."""

    def __call__(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T], /) -> _T:
        """Return what ``work`` returns."""


def _directly(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T], /) -> _T:
    return work(connection)


def check_exists(path: Path) -> None:
    """Raise `StoreRefused` unless there is a file at a path."""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        message = f"store {path} {what}; use the path of the server's file"
        raise StoreRefused(message)


class SqliteInspector:
    """A store's file, open for reading only. It takes no lock that could block a server.

    With ``any_version`` the file may be of an older version, and only `run` is of use.
    """

    def __init__(self, path: Path, *, any_version: bool = False) -> None:
        #: SQLite keeps the log beside the file, not beside a symlink to it.
        self._path = Path(os.path.realpath(path))
        self._log = self._path.with_name(f"{self._path.name}-wal")
        self._connection: sqlite3.Connection | None = None
        self._parameters = ""
        #: The parameters to open a file with a log.
        self._shared = _SHARED
        #: The state of the database file when it was opened.
        self._opened: tuple[int, ...] = ()
        check_exists(self._path)
        try:
            check = check_used if any_version else check_schema
            self._read(lambda connection: check(connection, self._path))
        except sqlite3.Error as error:
            raise translate_at_open(error, self._path) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def mode(self) -> int:
        """The permissions of the file."""
        return self._path.stat().st_mode & 0o777

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work``, whose statements begin their own transactions. Repeat it if the file changes meanwhile."""
        return self._translated(work, within=_directly)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in one read transaction. Only for a caller who has locked the file against servers."""
        self.run(lambda _: None)  # Opens the file in the way that fits now.
        if self._connection is None:
            raise AssertionError
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        finally:
            self._connection.execute("ROLLBACK")

    def check_undisturbed(self) -> None:
        """Raise `StoreError` if another program has written to the file since it was opened."""
        if self._disturbed():
            message = f"store {self._path} was changed by another program during the read; stop that program"
            raise StoreError(message)

    def count_open(self) -> int:
        """Return the number of open workflows."""
        return self._translated(lambda connection: int(connection.execute(QUERIES["count_open"]).fetchone()[0]))

    def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of workflows, as `Store.list_workflows` does."""
        return self._translated(lambda connection: read_page(connection, condition, limit, after))

    def read_history(self, key: int) -> list[bytes]:
        """Return all events of a workflow."""
        events: list[bytes] = []
        while True:
            read = partial(read_events, key=key, after=len(events), limit=EVENTS_AT_ONCE, max_bytes=BYTES_AT_ONCE)
            some = self._translated(read)
            events.extend(some)
            # Each read sees one state of the file, so the last one ends at the end of a commit.
            if not some:
                return events

    def _translated(self, work: Callable[[sqlite3.Connection], _T], *, within: _Within = in_read_transaction) -> _T:
        try:
            return self._read(work, within=within)
        except sqlite3.Error as error:
            raise unavailable(error, self._path) from error
        except (UnicodeError, OverflowError, ValueError) as error:
            message = f"store {self._path} has a malformed value: {error}"
            raise StoreError(message) from error

    def _read(self, work: Callable[[sqlite3.Connection], _T], *, within: _Within = in_read_transaction) -> _T:
        """Run ``work`` on one state of the file. Repeat it if the file changes or the server stops in the meantime."""
        failure: Exception | None = None
        for _ in range(_TRIES):
            try:
                result = self._transact(work, within)
            except (sqlite3.Error, StoreError) as error:
                if not self._may_repeat(error):
                    raise
                failure = error
            else:
                if not self._disturbed():
                    return result
            self.close()
        message = f"store {self._path} kept changing during {_TRIES} reads; use --server to read from its server"
        raise StoreError(message) from failure

    def _transact(self, work: Callable[[sqlite3.Connection], _T], within: _Within) -> _T:
        if self._connection is None:
            self._opened = self._state()
            self._parameters = self._shared if self._has_log() else _IMMUTABLE
            self._connection = connect_inspector(self._path, self._parameters)
        return within(self._connection, work)

    def _may_repeat(self, error: Exception) -> bool:
        """Return whether a retry may succeed, with another way to read the file if necessary."""
        if self._disturbed():
            return True
        if self._parameters != _SHARED or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NEEDS_SHARED_MEMORY:
            return False
        # The shared memory is missing, or has no free slot for a reader that may not write to it.
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
