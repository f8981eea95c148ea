"""The SQLite file that a store is moved from. It is locked as a server locks it, and only read."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.moving.tables import COMPUTED, NOT_MOVED, NUMBERED, TABLES, Table
from mendflow_server.store.sqlite.connection import unavailable
from mendflow_server.store.sqlite.file_lock import FileLock
from mendflow_server.store.sqlite.filesystem import check_location, crash_marker_path, resolve
from mendflow_server.store.sqlite.inspector import SqliteInspector, check_exists
from mendflow_server.store.sqlite.migrate import check_schema
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


#: A portion is full with so many rows or bytes, so that memory is bounded. One value may be larger than that.
_ROWS, _BYTES = 5_000, 4_000_000
#: SQLite looks for an interrupt after about this many steps of its virtual machine.
_STEPS: Final = 100_000
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Size:
    """How much a file holds."""

    workflows: int
    open_workflows: int
    #: The rows of all tables, as far as can be known without reading all events.
    rows: int


@contextlib.contextmanager
def locked_source(path: Path) -> Iterator[Source]:
    """Yield the file at a path. No server can open it meanwhile.

    Raise `StoreRefused` if it cannot be moved, as when a server uses it.
    """
    path = resolve(path)
    check_exists(path)
    check_location(path, _MOUNTS)
    lock = FileLock(path)
    # The lock comes before SQLite and goes after it; see `FileLock`.
    lock.take()
    try:
        with (
            contextlib.closing(SqliteInspector(path, any_version=True)) as inspector,
            inspector.reading() as connection,
        ):
            check_schema(connection, path, otherwise="stop it, and move the file then")
            yield Source(path, inspector, connection)
    finally:
        lock.release()


class Source:
    """A file in one read transaction. Its methods raise `StoreError` for what cannot be read."""

    def __init__(self, path: Path, inspector: SqliteInspector, connection: sqlite3.Connection) -> None:
        self.path = path
        self._inspector = inspector
        self._connection = connection
        connection.set_progress_handler(_is_cancelled, _STEPS)

    def check(self) -> None:
        """Raise `StoreDamaged` unless SQLite finds the file whole and each history has as many events as it must."""
        with self._translated():
            problems = [problem for (problem,) in self._connection.execute("PRAGMA integrity_check(3)")]
            if problems != ["ok"]:
                raise self._damaged("; ".join(problems))
            for workflow_id, last, number in self._connection.execute(QUERIES["torn_histories"]):
                raise self._damaged(f"the history of workflow {workflow_id!r} has {number} of its {last} events")

    def check_unchanged(self) -> None:
        """Raise `StoreError` if another program has changed the file since it was opened."""
        self._inspector.check_undisturbed()

    def size(self) -> Size:
        """Return how much there is to move."""
        with self._translated():
            (workflows, _) = self._connection.execute(QUERIES["count_all"]).fetchone()
            (open_workflows,) = self._connection.execute(QUERIES["count_open"]).fetchone()
            (rows,) = self._connection.execute(QUERIES["count_rows"]).fetchone()
        return Size(workflows, open_workflows, rows)

    def tables(self) -> list[Table]:
        """Return the tables to move."""
        with self._translated():
            return [self._table(name) for name in TABLES]

    def _table(self, name: str) -> Table:
        found = self._connection.execute("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (name,)).fetchall()
        own = [column for column, _ in found if (name, column) not in NOT_MOVED]
        more = COMPUTED.get(name, {})
        key = [column for place, column in sorted((place, column) for column, place in found if place)]
        return Table(name, (*own, *more), (*own, *more.values()), tuple(key))

    def portions(self, table: Table) -> Iterator[list[tuple[Any, ...]]]:
        """Yield the rows of a table in the order of its key, some at a time."""
        with self._translated():
            cursor = self._connection.execute(table.query(table.values))
            rows: list[tuple[Any, ...]] = []
            size = 0
            for row in cursor:
                rows.append(row)
                size += sum([len(value) for value in row if isinstance(value, (bytes, str))])
                if size >= _BYTES or len(rows) >= _ROWS:
                    yield rows
                    rows, size = [], 0
            if rows:
                yield rows

    def next_numbers(self) -> Mapping[str, int]:
        """Return the next id of each table whose ids the database gives, and of "workflows" the next key."""
        with self._translated():
            found = dict(self._connection.execute(QUERIES["next_numbers"]).fetchall())
        found["workflows"] = found.pop("purged")
        return {name: found[name] for name in NUMBERED}

    def crash_marker(self) -> tuple[int, bytes]:
        """Return the number of the last server's life, and what its crash marker holds if it did not end cleanly."""
        with self._translated():
            number, drained = self._connection.execute(QUERIES["last_life"]).fetchone() or (0, True)
        if drained:
            return number, b""
        try:
            return number, crash_marker_path(self.path).read_bytes()
        except OSError:
            return number, b""

    def _damaged(self, problem: str) -> StoreDamaged:
        message = f"store {self.path} has damage: {problem}; nothing was moved; restore a backup, and move that"
        return StoreDamaged(message)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise asyncio.CancelledError from error
            raise unavailable(error, self.path) from error


def _is_cancelled() -> bool:
    """Return whether Ctrl-C has cancelled the move, while SQLite works in it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0
