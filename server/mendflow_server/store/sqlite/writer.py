"""All writes, on one thread with one connection.

The writer writes a batch at most twice. The first time it writes the batch as a whole, with a few statements that
report only the number of changed rows. If that number is too small, a guard did not match or an id exists already. The
writer then rolls back and writes the batch again, each change under its own savepoint, to find the rejected ones.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from mendflow_server.store.columns import life_of, row_of
from mendflow_server.store.errors import CommitUnknown, malformed_value, unknown_replica
from mendflow_server.store.records import BatchResult, CommitOutcome
from mendflow_server.store.sqlite import purging
from mendflow_server.store.sqlite.bulk import read_rows, to_json, write_rows
from mendflow_server.store.sqlite.connection import (
    WRITER_PRAGMAS,
    code_of,
    connect_writer,
    explain,
    is_harmless,
    translate,
    translate_at_open,
    unavailable,
)
from mendflow_server.store.sqlite.encoder import EncodedChanges
from mendflow_server.store.sqlite.inbox import write_messages
from mendflow_server.store.sqlite.migrate import prepare
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mendflow_server.store.damage import Damage
    from mendflow_server.store.records import Batch, Change, Life, PurgeResult, Row, Suspect

_T = TypeVar("_T")


class Writer:
    """The connection that writes. Only its own thread uses it."""

    def __init__(
        self, path: Path, signal_limit: int, damage: Damage, *, pragmas: Sequence[str] = WRITER_PRAGMAS
    ) -> None:
        self._pragmas = pragmas
        self._path = path
        self._signal_limit = signal_limit
        self._damage = damage
        self._connection: sqlite3.Connection | None = None
        self._pages = purging.PageReturner(path)

    def open(self) -> int:
        """Create or migrate the file, and return the key of the next new workflow.

        Raise `StoreRefused`, or `StoreUnavailable` if the error may pass.
        """
        try:
            self._connection = connect_writer(self._path, create=True, pragmas=self._pragmas)
            prepare(self._connection, self._path)
            next_key: int = self._connection.execute(QUERIES["next_key"]).fetchone()[0]
            return next_key
        except sqlite3.Error as error:
            raise translate_at_open(error, self._path) from error

    def close(self) -> None:
        """Copy the write-ahead log into the file, then close the file."""
        if self._connection is not None:
            # If this fails, no data is lost: the next open reads the log.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA busy_timeout = 0").close()
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            self._connection.close()
            self._connection = None

    def commit(self, batch: Batch, keys: Sequence[int], encoded: EncodedChanges) -> BatchResult:
        """Commit the batch. ``keys`` and ``encoded`` have the keys and the encoded values of its changes."""
        result = self._transact(lambda connection: self._write(connection, batch, keys, encoded))
        batch.set_keys(keys, result.changes)
        return result

    def _write(
        self, connection: sqlite3.Connection, batch: Batch, keys: Sequence[int], encoded: EncodedChanges
    ) -> BatchResult:
        """Write a batch. The caller begins and ends the transaction."""
        outcomes = [CommitOutcome.COMMITTED] * len(keys)
        if keys and not encoded.write(connection):
            connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_write_one(connection, change, key) for change, key in zip(batch.changes, keys, strict=True)]
        result = BatchResult(outcomes, [], [], [])
        if batch.messages:
            write_messages(connection, batch.messages, self._signal_limit, result)
        return result

    def begin_life(self, life: Life) -> Life | None:
        """Record a server process and return the previous one."""

        def work(connection: sqlite3.Connection) -> Life | None:
            found = connection.execute(QUERIES["newest_life"], (life.replica_id,)).fetchone()
            values = (life.replica_id, life.start_time, life.beat_time, int(life.drained))
            connection.execute(QUERIES["insert_life"], values)
            connection.execute(QUERIES["drop_old_lives"])
            return life_of(found)

        return self._transact(work)

    def beat(self, replica_id: str, time: int, *, drained: bool) -> None:
        """Record that a server process is alive."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(QUERIES["beat"], (time, int(drained), replica_id)).rowcount != 1:
                raise unknown_replica(replica_id, self._path)

        self._transact(work)

    def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """Replace the ledger."""
        values: list[object] = []
        for each in suspects:
            values += (each.key, each.step_key, each.evidence, each.alone, int(each.held))

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(QUERIES["drop_suspects"])
            write_rows(connection, "insert_suspect", values, 5)

        self._transact(work)

    def set_held(self, workflow_id: str, *, held: bool) -> Row | None:
        """Hold a workflow, or release it; return its row."""

        def work(connection: sqlite3.Connection) -> Row | None:
            connection.execute(QUERIES["set_held"], {"workflow_id": workflow_id, "held": int(held)})
            found = read_rows(connection, QUERIES["find"], {"workflow_ids": to_json([workflow_id])})
            return row_of(found[0]) if found else None

        return self._transact(work)

    def purge_ended(self, workflow_type: str, until: int, limit: int) -> int:
        """Purge expired workflows of a type; return how many."""
        return self._transact(lambda connection: purging.purge_ended(connection, workflow_type, until, limit))

    def purge(self, workflow_id: str, uid: str) -> PurgeResult:
        """Purge one workflow, if it has ended and is not held."""
        return self._transact(lambda connection: purging.purge(connection, workflow_id, uid))

    def reclaim(self) -> bool:
        """Free a portion of the space of purged workflows; return whether more is left."""
        try:
            connection = self._connected()
            if purging.any_purged(connection):
                return self._transact(purging.reclaim_rows)
            return self._pages.give_back(connection)
        except sqlite3.Error as error:
            self._undo(error)
            raise self._damage.look_at(translate(error, self._path)) from error

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
        except sqlite3.Error as error:
            self._undo(error)
            raise self._damage.look_at(translate(error, self._path)) from error
        except BaseException as error:
            self._undo(error)
            if isinstance(error, (UnicodeError, OverflowError)):
                raise malformed_value(self._path, error) from error
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(error)
            self._damage.look_at(unavailable(error, self._path))
            message = f"commit outcome unknown: {explain(error, self._path)}"
            raise CommitUnknown(message) from error
        return result

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect_writer(self._path, pragmas=self._pragmas)
        return self._connection

    def _undo(self, error: BaseException) -> None:
        """Roll back, and close the connection unless the error left it usable."""
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
    """Write one change under a savepoint, so that a rejected change does not affect the others."""
    encoded = EncodedChanges()
    encoded.add(change, key)
    connection.execute("SAVEPOINT one")
    if encoded.write(connection):
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
