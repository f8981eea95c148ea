"""Encode the changes of a batch as the arrays of one statement."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.columns import UPDATED_COLUMNS, to_insert, to_update
from mendflow_server.store.errors import history_gap
from mendflow_server.store.postgres.queries import ARRAYS, QUERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.records import Change

#: The key of an updated row, which follows the values that are written.
_key_of_update: Final = itemgetter(len(UPDATED_COLUMNS))


class EncodedChanges:
    """The rows of some changes, for each table."""

    __slots__ = ("_alerts", "_consumed", "_ended", "_events", "_heartbeats", "_labels", "_new", "_updates")

    def __init__(self) -> None:
        self._new: list[tuple[object, ...]] = []
        self._updates: list[tuple[object, ...]] = []
        self._events: list[tuple[object, ...]] = []
        self._labels: list[tuple[object, ...]] = []
        self._ended: list[tuple[object, ...]] = []
        self._consumed: list[tuple[object, ...]] = []
        #: By key and step, because one statement can write a row only once.
        self._heartbeats: dict[tuple[int, str], tuple[object, ...]] = {}
        self._alerts: list[tuple[object, ...]] = []

    def add(self, change: Change, key: int) -> None:
        """Add a change whose row has this key. Raise `StoreError` if the history would have a gap."""
        row, guard = change.row, change.guard
        last = 0 if guard is None else guard.last_sequence
        for sequence, content in change.events:
            last += 1
            if sequence != last:
                raise history_gap(row.workflow_id)
            self._events.append((key, sequence, content))
        if row.last_sequence != last:
            raise history_gap(row.workflow_id)
        if guard is None:
            self._new.append(to_insert(row, key, _text(row.explanation)))
            for name, value in row.labels.items():
                self._labels.append((name, value, row.create_time, key))
        else:
            self._updates.append(to_update(row, guard, _text(row.explanation)))
            if change.final:
                self._ended.append((key,))
        if change.consumed or change.alerts or change.heartbeats:
            self._add_beside(change, key)

    def _add_beside(self, change: Change, key: int) -> None:
        for message_id in dict.fromkeys(change.consumed):
            self._consumed.append((message_id, key))
        for alert in change.alerts:
            self._alerts.append((alert.time, key, alert.name, alert.severity, _text(alert.message)))
        if not change.final:
            for beat in change.heartbeats:
                step_key = _text(beat.step_key)
                self._heartbeats[(key, step_key)] = (key, step_key, beat.attempt, beat.details)

    def statement(self) -> tuple[str, list[Sequence[Any]]]:
        """Return the statement that writes the changes, and its arrays."""
        # Rows are locked in the order of their keys, so that two batches never wait for each other.
        self._updates.sort(key=_key_of_update)
        values: list[Sequence[Any]] = []
        _add_columns(values, "inserted_arrays", self._new)
        _add_columns(values, "updated_arrays", self._updates)
        _add_columns(values, "event_arrays", self._events)
        _add_columns(values, "label_arrays", self._labels)
        _add_columns(values, "ended_arrays", self._ended)
        if not (self._consumed or self._heartbeats or self._alerts):
            return QUERIES["commit"], values
        _add_columns(values, "consumed_arrays", self._consumed)
        _add_columns(values, "heartbeat_arrays", list(self._heartbeats.values()))
        _add_columns(values, "alert_arrays", self._alerts)
        return QUERIES["commit_beside"], values


def _text(given: str) -> str:
    """Return a text as PostgreSQL takes it, which knows no NUL. The history keeps the original."""
    return given.replace("\0", "\N{SYMBOL FOR NULL}") if "\0" in given else given


def _add_columns(values: list[Sequence[Any]], name: str, rows: list[tuple[object, ...]]) -> None:
    values.extend(zip(*rows, strict=True) if rows else [()] * len(ARRAYS[name]))
