"""All that writes, on one thread with one connection.

A batch is written twice at most. First as a whole: a few statements, which report only how many rows changed.
When that is fewer than were sent, someone lost their workflow or their id: the transaction is rolled back and the
batch written again change by change under savepoints, which finds out who.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from mendflow_server.store.protocol import (
    BatchResult,
    CommitUnknown,
    Life,
    StoreError,
    Verdict,
)
from mendflow_server.store.sqlite import rows
from mendflow_server.store.sqlite.batching import write_rows
from mendflow_server.store.sqlite.connection import (
    code_of,
    connect_writer,
    explain,
    is_harmless,
    translate,
    translate_at_open,
)
from mendflow_server.store.sqlite.delivery import Delivery
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.schema import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mendflow_server.store.protocol import Batch, Change, Suspect

_T = TypeVar("_T")


class Writer:
    """The connection that writes. Used on its thread alone."""

    def __init__(self, path: Path, signal_limit: int) -> None:
        self._path = path
        self._signal_limit = signal_limit
        self._connection: sqlite3.Connection | None = None
        #: None: to be read again.
        self._next_key: int | None = None

    def open(self) -> None:
        """Make or migrate the file, or raise `StoreRefused`."""
        try:
            self._connection = connect_writer(self._path, create=True)
            prepare(self._connection, self._path)
        except sqlite3.Error as error:
            raise translate_at_open(error, self._path) from error

    def close(self) -> None:
        """Bring the write-ahead log into the file, and close it."""
        if self._connection is not None:
            # The log is as good a place for what it holds: the next open reads it there.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            self._connection.close()
            self._connection = None

    def commit(self, batch: Batch) -> BatchResult:
        """Commit the batch."""
        keys: list[int] = []

        def work(connection: sqlite3.Connection) -> BatchResult:
            written = _Transaction(connection, batch, self._first_key(connection), self._signal_limit)
            result = written.write()
            keys.extend(written.keys)
            return result

        result = self._transact(work)
        # Only now: a row without a key is one that is not in the store.
        for change, key, verdict in zip(batch.changes, keys, result.changes, strict=True):
            if change.guard is None and verdict is Verdict.DONE:
                change.row.key = key
                self._next_key = key + 1
        return result

    def begin_life(self, life: Life) -> Life | None:
        """Record a server process and answer the one before it."""

        def work(connection: sqlite3.Connection) -> Life | None:
            found = connection.execute(QUERIES["newest_life"]).fetchone()
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
        values = [(each.key, each.step_key, each.deaths, each.alone, int(each.held)) for each in suspects]

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(QUERIES["drop_suspects"])
            write_rows(connection, "insert_suspect", values)

        self._transact(work)

    def _first_key(self, connection: sqlite3.Connection) -> int:
        if self._next_key is None:
            self._next_key = connection.execute(QUERIES["next_key"]).fetchone()[0]
        return self._next_key

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
        except sqlite3.Error as error:
            self._undo(error)
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
            message = f"the commit's outcome is unknown; {explain(error, self._path)}"
            raise CommitUnknown(message) from error
        return result

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect_writer(self._path)
        return self._connection

    def _undo(self, error: BaseException) -> None:
        """Leave nothing half done, and no connection that cannot be trusted."""
        self._next_key = None
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


class _Transaction:
    """A batch inside a transaction that has begun and that the caller ends."""

    def __init__(self, connection: sqlite3.Connection, batch: Batch, first_key: int, signal_limit: int) -> None:
        self._connection = connection
        self._batch = batch
        self._first_key = first_key
        self._signal_limit = signal_limit
        #: The row key of each change.
        self.keys: list[int] = []

    def write(self) -> BatchResult:
        changes = self._batch.changes
        self._number()
        parts = _Parts()
        for change, key in zip(changes, self.keys, strict=True):
            parts.add(change, key)
        verdicts = [Verdict.DONE] * len(changes)
        if changes and not parts.write(self._connection):
            self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN IMMEDIATE")
            verdicts = self._write_each()
        result = BatchResult(verdicts, [], [], [])
        if self._batch.messages:
            Delivery(self._connection, self._batch.messages, self._signal_limit).write(result)
        return result

    def _number(self) -> None:
        """Give each change its key; ids that prove taken leave holes, which do no harm."""
        following = self._first_key
        for change in self._batch.changes:
            if change.guard is None:
                self.keys.append(following)
                following += 1
            else:
                self.keys.append(change.row.key)

    def _write_each(self) -> list[Verdict]:
        verdicts = []
        for change, key in zip(self._batch.changes, self.keys, strict=True):
            parts = _Parts()
            parts.add(change, key)
            self._connection.execute("SAVEPOINT one")
            if parts.write(self._connection):
                verdicts.append(Verdict.DONE)
            else:
                self._connection.execute("ROLLBACK TO one")
                verdicts.append(self._refusal(change))
            self._connection.execute("RELEASE one")
        return verdicts

    def _refusal(self, change: Change) -> Verdict:
        if change.guard is None:
            return Verdict.TAKEN
        guard = (change.row.key, change.guard.generation, change.guard.last_sequence)
        held = self._connection.execute(QUERIES["guard_holds"], guard).fetchone()
        return Verdict.LOST if held is None else Verdict.INBOX


class _Parts:
    """The values of some changes, by statement."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []
        self._new: list[tuple[object, ...]] = []
        self._updates: list[tuple[object, ...]] = []
        self._ends: list[tuple[object, ...]] = []
        self._events: list[tuple[int, int, bytes]] = []
        self._labels: list[tuple[str, str, int, int]] = []
        self._heartbeats: list[tuple[int, str, int, bytes]] = []
        self._ended: list[tuple[int]] = []
        self._alerts: list[tuple[int, int, str, int, str]] = []

    def add(self, change: Change, key: int) -> None:
        """Add a change whose row has this key."""
        row, guard = change.row, change.guard
        _check(change)
        if guard is None:
            self._new.append(rows.to_insert(row, key))
            for name, value in row.labels.items():
                self._labels.append((name, value, row.create_time, key))
        else:
            (self._ends if change.final else self._updates).append(rows.to_update(row, guard))
        for sequence, content in change.events:
            self._events.append((key, sequence, content))
        for taken in change.taken:
            self._taken.append((taken, key))
        for alert in change.alerts:
            self._alerts.append((alert.time, key, alert.name, alert.severity, alert.message))
        if not change.final:
            for beat in change.heartbeats:
                self._heartbeats.append((key, beat.step_key, beat.attempt, beat.details))
        elif guard is not None:
            self._ended.append((key,))

    def write(self, connection: sqlite3.Connection) -> bool:
        """Write them; answer False as soon as one proves refused, for the caller to roll back."""

        def write(name: str, values: Sequence[tuple[object, ...]]) -> bool:
            return write_rows(connection, name, values) == len(values)

        # What is taken goes first: an end looks whether anything is left in the inbox.
        write_rows(connection, "take_message", self._taken)
        if not (
            write("insert_workflow", self._new)
            and write("update_workflow", self._updates)
            and write("end_workflow", self._ends)
        ):
            return False
        write_rows(connection, "insert_event", self._events)
        write_rows(connection, "insert_label", self._labels)
        write_rows(connection, "write_heartbeat", self._heartbeats)
        write_rows(connection, "drop_heartbeats", self._ended)
        write_rows(connection, "insert_alert", self._alerts)
        return True


def _check(change: Change) -> None:
    """Raise on a history that would have a gap: the driver is at fault, and nothing may be written."""
    last = change.guard.last_sequence if change.guard is not None else 0
    for sequence, _ in change.events:
        last += 1
        if sequence != last:
            break
    else:
        if change.row.last_sequence == last:
            return
    message = f"the events of workflow {change.row.workflow_id!r} do not follow its last sequence without a gap"
    raise StoreError(message)
