"""SQLite connections, and what its errors mean."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from mendflow_server.store.protocol import StoreError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

_WRITER: Final = (
    # The WAL is synced at each commit: what was acknowledged survives the loss of power.
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -16384",
    # Fewer and longer checkpoints than the default of 1,000 pages: a smoother p99.
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA busy_timeout = 5000",
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


def connect_writer(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a connection that writes. Without ``create`` a file that has gone is not made anew."""
    return _connect(path, "rwc" if create else "rw", _WRITER)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a connection that only reads."""
    return _connect(path, "rw", _READER)


def _connect(path: Path, mode: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
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


def code_of(error: sqlite3.Error) -> int:
    """Answer the primary result code, 0 when there is none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def explain(error: sqlite3.Error, path: Path) -> str:
    """Say what happened to the file and what to do."""
    advice = _ADVICE.get(code_of(error))
    return f"the store {path}: {advice} ({error})" if advice else f"the store {path}: {error}"


def is_harmless(error: BaseException) -> bool:
    """Tell whether the connection may be used again after this error."""
    return not isinstance(error, sqlite3.Error) or isinstance(error, _OURS) or code_of(error) in _HARMLESS


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Make the store's error out of one that came before anything was committed."""
    if isinstance(error, _OURS):
        return StoreError(f"the store {path} refuses a malformed value: {error}")
    return StoreUnavailable(explain(error, path))


def translate_at_open(error: sqlite3.Error, path: Path) -> StoreError:
    """Make the store's error out of one that came while the store was opened."""
    message = explain(error, path)
    return StoreUnavailable(message) if code_of(error) in _PASSING else StoreRefused(message)
