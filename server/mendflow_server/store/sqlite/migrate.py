"""Recognise Mendflow's databases and migrate their schema."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.sql_files import read_migrations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: "MFLW". It identifies the database to ``file`` and to this server.
APPLICATION_ID: Final = 0x4D464C57

#: The first version with STRICT tables.
_OLDEST_SQLITE: Final = (3, 37, 0)
#: What a reader of a file can do about an old one.
_OTHERWISE: Final = "or use --server to read from the running server"


def migrations() -> list[str]:
    """Return the migration scripts in order. The first one creates version 1."""
    return list(read_migrations(__package__).values())


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Migrate the file to the newest schema, or raise `StoreRefused` and leave it unchanged."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        message = f"SQLite {sqlite3.sqlite_version} is too old; install SQLite 3.37 or newer"
        raise StoreRefused(message)
    _check_application(connection, path)
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        # Only a new file can be set to give free pages back; see purging.py.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        message = f"{path} cannot use write-ahead logging (journal mode {mode!r}); use a file on a local disk"
        raise StoreRefused(message)
    _migrate(connection, path)


def check_schema(connection: sqlite3.Connection, path: Path, *, otherwise: str = _OTHERWISE) -> None:
    """Raise `StoreRefused` unless the file has the newest schema. ``otherwise`` says what else to do."""
    check_used(connection, path)
    version, newest = _version(connection), len(migrations())
    if version < newest:
        message = (
            f"{path} has schema {version}, and this version reads schema {newest}; "
            f"start this version's server on it once, {otherwise}"
        )
        raise StoreRefused(message)


def check_used(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreRefused` unless a server of this version or an older one has used the file."""
    _check_application(connection, path)
    if not _version(connection):
        message = f"{path} is empty, because no server has used it yet; check the path"
        raise StoreRefused(message)


def _check_application(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id != APPLICATION_ID and (tables or application_id):
        message = f"{path} is another program's database; use another file"
        raise StoreRefused(message)
    _check_not_newer(_version(connection), path)


def _check_not_newer(version: int, path: Path) -> None:
    newest = len(migrations())
    if version > newest:
        message = (
            f"{path} was written by a newer version (schema {version}; this version supports {newest}); "
            "install the newer version or use another file"
        )
        raise StoreRefused(message)


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Run the missing migrations in one transaction, so that no file is between two versions."""
    scripts = migrations()
    if _version(connection) == len(scripts):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read the version again under the lock: a file must not be migrated twice.
        version = _version(connection)
        _check_not_newer(version, path)
        for script in scripts[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(scripts)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script. ``executescript`` would commit the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
