"""SQLite connections, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from mendflow_server.store.errors import StoreDamaged, StoreError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_T = TypeVar("_T")

log = structlog.get_logger("mendflow.store")

WRITER_PRAGMAS: Final = (
    # The WAL is synced at each commit: what was acknowledged survives the loss of power.
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -16384",
    # Fewer and longer checkpoints than the default of 1,000 pages: a smoother p99.
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
    # Not longer: whoever writes tries again, and a drain has to wait for what was begun.
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
    sqlite3.SQLITE_FULL: "the disk is full; free some space on it",
    sqlite3.SQLITE_READONLY: "it cannot be written; make the file and its directory writable for this server",
    sqlite3.SQLITE_IOERR: "the disk reports an error; look into the system's log",
    sqlite3.SQLITE_BUSY: "another program holds it locked; end that program",
    sqlite3.SQLITE_LOCKED: "another program holds it locked; end that program",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; look whether the file is there and readable",
    sqlite3.SQLITE_CORRUPT: "it is damaged; stop the server and restore a copy",
    sqlite3.SQLITE_NOTADB: "it is not a database; give another file, or restore a copy",
}

#: Errors after which the connection itself is as good as before.
_HARMLESS: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

#: Bytes that SQLite needs at once: its shared memory grows by this much.
_ROOM: Final = 32_768

#: Errors that say that the file is not what was written.
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: Errors that may pass by themselves.
_PASSING: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM}
)

#: Errors that the statement or its values are to blame for.
_OURS: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)


def connect_writer(path: Path, *, create: bool = False, pragmas: Sequence[str] = WRITER_PRAGMAS) -> sqlite3.Connection:
    """Open a connection that writes. Without ``create`` a file that has gone is not created again."""
    return _connect(path, "rwc" if create else "rw", pragmas)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that only reads."""
    return _connect(path, "rw", _READER)


def connect_inspector(path: Path, parameters: str) -> sqlite3.Connection:
    """Open a connection that changes no file, with these parameters of SQLite's URI."""
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
    """Answer the primary result code, 0 when there is none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    if not code and "Could not decode to UTF-8" in str(error):
        return sqlite3.SQLITE_CORRUPT  # Python's own finding, of text that nobody can have written.
    return code & 0xFF


def explain(error: sqlite3.Error, path: Path) -> str:
    """Say what happened to the file and what to do."""
    code = code_of(error)
    if code == sqlite3.SQLITE_IOERR and _has_no_room(path):
        code = sqlite3.SQLITE_FULL
    advice = _ADVICE.get(code)
    return f"the store {path}: {advice} ({error})" if advice else f"the store {path}: {error}"


def _has_no_room(path: Path) -> bool:
    """Tell whether the disk is full: not all that SQLite finds no room for is told as that."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _ROOM


class Damage:
    """What the threads of one store found damaged. It is logged once, and remembered: it does not mend itself."""

    def __init__(self) -> None:
        self.found = ""

    def look_at(self, error: sqlite3.Error, path: Path) -> None:
        """Remember the error if it tells of damage."""
        if not self.found and code_of(error) in _DAMAGED:
            self.found = explain(error, path)
            log.critical("store_damaged", error=self.found)


def is_harmless(error: BaseException) -> bool:
    """Tell whether the connection may be used again after this error."""
    return not isinstance(error, sqlite3.Error) or isinstance(error, _OURS) or code_of(error) in _HARMLESS


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Make the store's error out of one that came before anything was committed."""
    if isinstance(error, _OURS):
        return StoreError(f"the store {path} refuses a malformed value: {error}")
    return unavailable(error, path)


def unavailable(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    """Make the store's error out of one that came while it was read."""
    message = explain(error, path)
    return StoreDamaged(message) if code_of(error) in _DAMAGED else StoreUnavailable(message)


def translate_at_open(error: sqlite3.Error, path: Path) -> StoreError:
    """Make the store's error out of one that came while the store was opened."""
    message = explain(error, path)
    return StoreUnavailable(message) if code_of(error) in _PASSING else StoreRefused(message)
