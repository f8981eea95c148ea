"""Open SQLite connections and explain SQLite's errors."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final, TypeVar

from mendflow_server.store.errors import StoreDamaged, StoreError, StoreRefused, StoreUnavailable, malformed_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_T = TypeVar("_T")

WRITER_PRAGMAS: Final = (
    # SQLite syncs the WAL at each commit, so that committed data survives a power loss.
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -16384",
    # Checkpoints are rarer and longer than with the default of 1,000 pages, which improves the p99 latency.
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
    # Not longer: the committer retries, and a drain waits for a commit that has begun.
    "PRAGMA busy_timeout = 1000",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA mmap_size = 0",
)

_READER: Final = (
    "PRAGMA query_only = ON",
    "PRAGMA cache_size = -8192",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA mmap_size = 0",
)

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "disk full; free some space",
    sqlite3.SQLITE_READONLY: "the file is read-only; make it and its directory writable for the server",
    sqlite3.SQLITE_IOERR: "disk I/O error; check the kernel log",
    sqlite3.SQLITE_BUSY: "the file is locked by another program; stop that program",
    sqlite3.SQLITE_LOCKED: "the file is locked by another program; stop that program",
    sqlite3.SQLITE_CANTOPEN: "cannot open the file; check that it exists and is readable",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; stop the server and restore a backup",
    sqlite3.SQLITE_NOTADB: "the file is not a database; use another file or restore a backup",
}

#: Errors after which the connection is still usable.
_HARMLESS: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

#: The free space that SQLite needs to extend its shared memory, in bytes.
_ROOM: Final = 32_768

#: Errors that report a damaged file.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: Errors that may pass without an operator.
_PASSING: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}
)

#: Errors caused by the statement or its values.
_BY_CALLER: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)


def connect_writer(path: Path, *, create: bool = False, pragmas: Sequence[str] = WRITER_PRAGMAS) -> sqlite3.Connection:
    """Open a connection that writes. Without ``create``, a missing file is an error."""
    return _connect(path, "rwc" if create else "rw", pragmas)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that only reads."""
    return _connect(path, "rw", _READER)


def connect_inspector(path: Path, parameters: str) -> sqlite3.Connection:
    """Open a connection that changes no file. ``parameters`` are added to SQLite's URI."""
    return _connect(path, f"ro&{parameters}" if parameters else "ro", _READER)


def _connect(path: Path, mode: str, pragmas: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, cached_statements=256
    )
    try:
        for pragma in pragmas:
            connection.execute(pragma).close()
    except BaseException:
        connection.close()
        raise
    return connection


def in_read_transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], _T]) -> _T:
    """Return what ``work`` returns. All of its statements see the same state of the file."""
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def code_of(error: sqlite3.Error) -> int:
    """Return the primary result code; 0 if there is none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    if not code and "Could not decode to UTF-8" in str(error):
        return sqlite3.SQLITE_CORRUPT  # Python found text that is not UTF-8, which this server never writes.
    return code & 0xFF


def explain(error: sqlite3.Error, path: Path) -> str:
    """Return a message with what happened to the file and what to do."""
    code = code_of(error)
    if code == sqlite3.SQLITE_IOERR and _has_no_room(path):
        code = sqlite3.SQLITE_FULL
    advice = _ADVICE.get(code)
    return f"store {path}: {advice} ({error})" if advice else f"store {path}: {error}"


def _has_no_room(path: Path) -> bool:
    """Return whether the disk is full, which SQLite reports as an I/O error in some places."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _ROOM


def is_harmless(error: BaseException) -> bool:
    """Return whether the connection is still usable after this error."""
    return not isinstance(error, sqlite3.Error) or isinstance(error, _BY_CALLER) or code_of(error) in _HARMLESS


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the store's error for one that SQLite raised before anything was committed."""
    if isinstance(error, _BY_CALLER):
        return malformed_value(path, error)
    return unavailable(error, path)


def unavailable(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """Return the store's error for one that SQLite raised during a read."""
    message = explain(error, path)
    return StoreDamaged(message) if code_of(error) in _DAMAGED else StoreUnavailable(message)


def translate_at_open(error: sqlite3.Error, path: Path) -> StoreError:
    """Return the store's error for one that SQLite raised while the store was opened."""
    message = explain(error, path)
    return StoreUnavailable(message) if code_of(error) in _PASSING else StoreRefused(message)
