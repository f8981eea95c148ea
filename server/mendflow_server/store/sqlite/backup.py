"""Copy a store's file to another one, also while a server writes to it.

``VACUUM INTO`` copies one state of the file, in one read transaction. It takes no lock that a writer waits for. The log
cannot be shortened before the copy is done, so it grows by what is committed meanwhile. The copy has no free pages, and
it can give pages back, which a file of an older version cannot.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mendflow_server.store.errors import StoreDamaged, StoreError, StoreRefused
from mendflow_server.store.sqlite.bulk import read_rows
from mendflow_server.store.sqlite.connection import connect_inspector, explain
from mendflow_server.store.sqlite.inspector import SqliteInspector
from mendflow_server.store.sqlite.queries import QUERIES

#: SQLite looks for Ctrl-C after about this many steps of its virtual machine.
_STEPS: Final = 100_000


@dataclass(frozen=True)
class Backup:
    """A finished copy."""

    path: Path
    #: Its size in bytes.
    size: int
    workflows: int
    open_workflows: int
    #: The newest time in the copy: the last start of a workflow or sign of life of the server; 0 if there is none.
    last_time: int


def back_up(source: Path, destination: Path) -> Backup:
    """Copy a store's file to a path at which there is nothing yet, and check the copy.

    The file appears there only when it is complete and synced. Raise `StoreRefused` if there is something, and
    `StoreError` if the copy fails.
    """
    if os.path.lexists(destination):
        raise _exists(destination)
    if not destination.parent.is_dir():
        message = f"directory {destination.parent} does not exist; create it or choose another destination"
        raise StoreRefused(message)
    with contextlib.closing(SqliteInspector(source, any_version=True)) as inspector:
        try:
            return _copy(inspector, destination)
        except OSError as error:
            message = f"cannot write {destination}: {error.strerror or error}"
            raise StoreError(message) from error


def _copy(inspector: SqliteInspector, destination: Path) -> Backup:
    descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.", suffix=".part")
    temporary = Path(name)
    try:
        inspector.run(lambda connection: _vacuum_into(connection, temporary))
        os.fchmod(descriptor, inspector.mode)
        found = _check(temporary, destination)
        os.fsync(descriptor)
        _publish(temporary, destination)
        return found
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _vacuum_into(connection: sqlite3.Connection, path: Path) -> None:
    os.truncate(path, 0)  # An earlier try may have been disturbed.
    connection.set_progress_handler(lambda: 0, _STEPS)  # Without Python code, Ctrl-C would wait for the end.
    connection.execute("PRAGMA query_only = OFF")
    if connection.execute("PRAGMA auto_vacuum").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    try:
        connection.execute("VACUUM INTO ?", (str(path),))
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise
    finally:
        connection.execute("PRAGMA query_only = ON")


def _check(temporary: Path, destination: Path) -> Backup:
    """Return what the copy holds. Raise `StoreDamaged` if it is not whole."""
    try:
        with contextlib.closing(connect_inspector(temporary, "immutable=1")) as connection:
            problems = [problem for (problem,) in connection.execute("PRAGMA integrity_check(3)")]
            if problems != ["ok"]:
                message = f"the store has damage that its copy shows: {'; '.join(problems)}; no copy was made"
                raise StoreDamaged(message)
            (workflows, newest) = connection.execute(QUERIES["count_all"]).fetchone()
            (open_workflows,) = connection.execute(QUERIES["count_open"]).fetchone()
            last_beat = max(read_rows(connection, QUERIES["last_beat"], {}), default=0)
    except sqlite3.Error as error:
        raise StoreDamaged(explain(error, destination)) from error
    return Backup(destination, temporary.stat().st_size, workflows, open_workflows, max(last_beat, newest))


def _publish(temporary: Path, destination: Path) -> None:
    """Give the copy its name, which no file may have, and make that durable."""
    try:
        os.link(temporary, destination)  # Unlike a rename, a link replaces nothing.
    except FileExistsError:
        raise _exists(destination) from None
    except OSError:
        # The file system has no links.
        if os.path.lexists(destination):
            raise _exists(destination) from None
        temporary.rename(destination)
    else:
        temporary.unlink()
    folder = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _exists(destination: Path) -> StoreRefused:
    return StoreRefused(f"{destination} exists; choose another destination, because a backup replaces nothing")
