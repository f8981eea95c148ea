"""Encode changes as the values of statements.

The event loop encodes them, while the changes are in the processor's cache. The writer thread only passes the values
to SQLite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.columns import GUARDED_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS, to_insert, to_update
from mendflow_server.store.errors import history_gap
from mendflow_server.store.sqlite.bulk import write_rows

if TYPE_CHECKING:
    import sqlite3

    from mendflow_server.store.records import Change

#: How many values `to_insert` and `to_update` return.
_INSERT_WIDTH: Final = len(INSERTED_COLUMNS)
_UPDATE_WIDTH: Final = len(UPDATED_COLUMNS) + len(GUARDED_COLUMNS)


class EncodedChanges:
    """The values of some changes: for each statement one flat list, row after row."""

    __slots__ = (
        "_alerts",
        "_consumed",
        "_ended",
        "_events",
        "_heartbeats",
        "_labels",
        "_new",
        "_updates",
    )

    def __init__(self) -> None:
        self._consumed: list[Any] = []
        self._new: list[Any] = []
        self._updates: list[Any] = []
        self._events: list[Any] = []
        self._labels: list[Any] = []
        self._heartbeats: list[Any] = []
        self._ended: list[Any] = []
        self._alerts: list[Any] = []

    def add(self, change: Change, key: int) -> None:
        """Add a change whose row has this key. Raise `StoreError` if the history would have a gap."""
        row, guard = change.row, change.guard
        last = 0 if guard is None else guard.last_sequence
        for sequence, content in change.events:
            last += 1
            if sequence != last:
                raise history_gap(row.workflow_id)
            self._events += (key, sequence, content)
        if row.last_sequence != last:
            raise history_gap(row.workflow_id)
        if guard is None:
            self._new += to_insert(row, key, row.explanation)
            for name, value in row.labels.items():
                self._labels += (name, value, row.create_time, key)
        else:
            self._updates += to_update(row, guard, row.explanation)
            if change.final:
                self._ended.append(key)
        if change.consumed or change.alerts or change.heartbeats:
            self._add_beside(change, key)

    def _add_beside(self, change: Change, key: int) -> None:
        for message_id in change.consumed:
            self._consumed += (message_id, key)
        for alert in change.alerts:
            self._alerts += (alert.time, key, alert.name, alert.severity, alert.message)
        if not change.final:
            for beat in change.heartbeats:
                self._heartbeats += (key, beat.step_key, beat.attempt, beat.details)

    def write(self, connection: sqlite3.Connection) -> bool:
        """Write the changes. Return False as soon as one is rejected; the caller then rolls back."""

        def write(name: str, values: list[Any], width: int) -> bool:
            return write_rows(connection, name, values, width) * width == len(values)

        # Delete consumed messages first: a final change is rejected while the inbox has a message.
        write_rows(connection, "consume_message", self._consumed, 2)
        if not write("insert_workflow", self._new, _INSERT_WIDTH):
            return False
        if not write("update_workflow", self._updates, _UPDATE_WIDTH):
            return False
        write_rows(connection, "insert_event", self._events, 3)
        write_rows(connection, "insert_label", self._labels, 4)
        write_rows(connection, "write_heartbeat", self._heartbeats, 4)
        write_rows(connection, "drop_heartbeats", self._ended, 1)
        write_rows(connection, "insert_alert", self._alerts, 5)
        return True
