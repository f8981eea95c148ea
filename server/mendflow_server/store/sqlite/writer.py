"""All that writes, on one thread with one connection.

A batch is written twice at most. First as a whole: a few statements, which report only how many rows changed.
When that is fewer than were sent, someone lost their workflow or their id: the transaction is rolled back and the
batch written again change by change under savepoints, which finds out who.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from mendflow_server.store.errors import CommitUnknown, StoreError
from mendflow_server.store.records import BatchResult, CommitOutcome, Life
from mendflow_server.store.sqlite.bulk import write_rows
from mendflow_server.store.sqlite.connection import (
    WRITER_PRAGMAS,
    code_of,
    connect_writer,
    explain,
    is_harmless,
    translate,
    translate_at_open,
)
from mendflow_server.store.sqlite.encoder import Parts
from mendflow_server.store.sqlite.inbox import Delivery
from mendflow_server.store.sqlite.migrate import prepare
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mendflow_server.store.records import Batch, Change, Suspect
    from mendflow_server.store.sqlite.connection import Damage

_T = TypeVar("_T")


class Writer:
    """The connection that writes. Used on its thread alone."""

    def __init__(
        self, path: Path, signal_limit: int, damage: Damage, *, pragmas: Sequence[str] = WRITER_PRAGMAS
    ) -> None:
        self._pragmas = pragmas
        self._path = path
        self._signal_limit = signal_limit
        self._damage = damage
        self._connection: sqlite3.Connection | None = None

    def open(self) -> int:
        """Make or migrate the file, or raise `StoreRefused`; answer the key of the next new workflow."""
        try:
            self._connection = connect_writer(self._path, create=True, pragmas=self._pragmas)
            prepare(self._connection, self._path)
            next_key: int = self._connection.execute(QUERIES["next_key"]).fetchone()[0]
            return next_key
        except sqlite3.Error as error:
            raise translate_at_open(error, self._path) from error

    def close(self) -> None:
        """Bring the write-ahead log into the file, and close it."""
        if self._connection is not None:
            # The log is as good a place for what it holds: the next open reads it there.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA busy_timeout = 0").close()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            self._connection.close()
            self._connection = None

    def commit(self, batch: Batch, keys: Sequence[int], parts: Parts) -> BatchResult:
        """Commit the batch, whose changes have these keys and are laid out in ``parts``."""
        result = self._transact(lambda connection: self._write(connection, batch, keys, parts))
        # Only now: a row without a key is one that is not in the store.
        for change, key, outcome in zip(batch.changes, keys, result.changes, strict=True):
            if change.guard is None and outcome is CommitOutcome.COMMITTED:
                change.row.key = key
        return result

    def _write(self, connection: sqlite3.Connection, batch: Batch, keys: Sequence[int], parts: Parts) -> BatchResult:
        """Write a batch inside a transaction that has begun and that the caller ends."""
        outcomes = [CommitOutcome.COMMITTED] * len(keys)
        if keys and not parts.write(connection):
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_write_one(connection, change, key) for change, key in zip(batch.changes, keys, strict=True)]
        result = BatchResult(outcomes, [], [], [])
        if batch.messages:
            Delivery(connection, batch.messages, self._signal_limit).write(result)
        return result

    def begin_life(self, life: Life) -> Life | None:
        """Record a server process and answer the one before it."""

        def work(connection: sqlite3.Connection) -> Life | None:
            found = connection.execute(QUERIES["newest_life"], (life.replica_id,)).fetchone()
            values = (life.replica_id, life.start_time, life.beat_time, int(life.drained))
            connection.execute(QUERIES["insert_life"], values)
            connection.execute(QUERIES["drop_old_lives"])
            return None if found is None else Life(found[0], found[1], found[2], drained=bool(found[3]))

        return self._transact(work)

    def beat(self, replica_id: str, time: int, *, drained: bool) -> None:
        """Renew a server process's row."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(QUERIES["beat"], (time, int(drained), replica_id)).rowcount != 1:
                message = f"replica {replica_id!r} has not begun its life in the store {self._path}"
                raise StoreError(message)

        self._transact(work)

    def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """Replace the ledger."""
        values: list[object] = []
        for each in suspects:
            values += (each.key, each.step_key, each.crashes, each.alone, int(each.held))

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(QUERIES["drop_suspects"])
            write_rows(connection, "insert_suspect", values, 5)

        self._transact(work)

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
        except sqlite3.Error as error:
            self._undo(error)
            self._damage.look_at(error, self._path)
            raise translate(error, self._path) from error
        except BaseException as error:
            self._undo(error)
            if isinstance(error, (UnicodeError, OverflowError)):
                message = f"the store {self._path} refuses a malformed value: {error}"
                raise StoreError(message) from error
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(error)
            self._damage.look_at(error, self._path)
            message = f"the commit's outcome is unknown; {explain(error, self._path)}"
            raise CommitUnknown(message) from error
        return result

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect_writer(self._path, pragmas=self._pragmas)
        return self._connection

    def _undo(self, error: BaseException) -> None:
        """Leave nothing half done, and no connection that cannot be trusted."""
        connection = self._connection
        if connection is None:
            return
        harmless = is_harmless(error)
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error as second:
                harmless = harmless and code_of(second) == sqlite3.SQLITE_ERROR and not connection.in_transaction
        if not harmless:
            self._connection = None
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _write_one(connection: sqlite3.Connection, change: Change, key: int) -> CommitOutcome:
    """Write a change by itself, under a savepoint: what becomes of it leaves the others alone."""
    parts = Parts()
    parts.add(change, key)
    connection.execute("SAVEPOINT one")
    if parts.write(connection):
        outcome = CommitOutcome.COMMITTED
    else:
        connection.execute("ROLLBACK TO one")
        outcome = _refusal(connection, change)
    connection.execute("RELEASE one")
    return outcome


def _refusal(connection: sqlite3.Connection, change: Change) -> CommitOutcome:
    if change.guard is None:
        return CommitOutcome.ID_EXISTS
    guard = (change.row.key, change.guard.generation, change.guard.last_sequence)
    held = connection.execute(QUERIES["guard_holds"], guard).fetchone()
    return CommitOutcome.CONFLICT if held is None else CommitOutcome.INBOX_NOT_EMPTY
