"""The columns of the tables, and conversion between their values and records. They are the same in every store.

The fields of `Row` are the one list of the columns of the table ``workflows``.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.records import Guard, InboxKind, Life, Message, Row, Suspect

if TYPE_CHECKING:
    from collections.abc import Sequence

#: All columns of `Row`, in the order of its fields. ``key`` is the first.
COLUMNS: Final = tuple(field.name for field in fields(Row))
#: The columns of an insert. A new workflow is not held, which is the column's default.
INSERTED_COLUMNS: Final = COLUMNS[: COLUMNS.index("held")]
#: The columns that change after the insert, in the order in which an update takes them.
UPDATED_COLUMNS: Final = (
    "state",
    "reason",
    "explanation",
    "generation",
    "replica_id",
    "last_sequence",
    "wake_time",
    "end_time",
    "untaken_signals",
)
#: The columns that must still hold the values of the guard. An update takes them after the others.
GUARDED_COLUMNS: Final = ("key", *Guard._fields)


# Each name is written out: `operator.attrgetter` takes more than twice as long, and each change needs one of these.
# A store may have to write another explanation than the row's, so the caller gives it.


def to_insert(row: Row, key: int, explanation: str) -> tuple[object, ...]:
    """Return the values of a new workflow, in the order of `INSERTED_COLUMNS`."""
    return (
        key,
        row.workflow_id,
        row.uid,
        row.workflow_type,
        row.state,
        row.reason,
        explanation,
        row.generation,
        row.replica_id,
        row.last_sequence,
        row.wake_time,
        row.create_time,
        row.end_time,
        row.untaken_signals,
        row.trace_id,
        json.dumps(row.labels, separators=(",", ":"), ensure_ascii=False) if row.labels else "{}",
    )


def to_update(row: Row, guard: Guard, explanation: str) -> tuple[object, ...]:
    """Return the values of an update, in the order of `UPDATED_COLUMNS` and `GUARDED_COLUMNS`."""
    return (
        row.state,
        row.reason,
        explanation,
        row.generation,
        row.replica_id,
        row.last_sequence,
        row.wake_time,
        row.end_time,
        row.untaken_signals,
        row.key,
        guard.generation,
        guard.last_sequence,
    )


def row_of(columns: Sequence[Any]) -> Row:
    """Return the row whose columns are in the order of `COLUMNS`. Raise `StoreDamaged` if its labels are malformed."""
    row = Row(*columns)
    row.held = bool(row.held)
    given: Any = row.labels
    if given == "{}":
        row.labels = {}
        return row
    try:
        labels = json.loads(given)
    except ValueError:
        labels = None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        message = f"the labels of workflow {row.workflow_id!r} are damaged; stop the server and restore a backup"
        raise StoreDamaged(message)
    row.labels = labels
    return row


def message_of(number: int, workflow_id: str, kind: int, request_id: str, time: int, content: bytes) -> Message:
    """Return a message. Raise `StoreDamaged` if its kind is unknown."""
    try:
        return Message(number, workflow_id, InboxKind(kind), request_id, time, content)
    except ValueError as error:
        message = f"a message in the inbox of workflow {workflow_id!r} is damaged; stop the server and restore a backup"
        raise StoreDamaged(message) from error


def life_of(columns: Sequence[Any] | None) -> Life | None:
    """Return the life of a server process; None if there is none."""
    if columns is None:
        return None
    replica_id, start_time, beat_time, drained = columns
    return Life(replica_id, start_time, beat_time, drained=bool(drained))


def suspect_of(columns: Sequence[Any]) -> Suspect:
    """Return a row of the ledger."""
    key, step_key, evidence, alone, held = columns
    return Suspect(key, step_key, evidence, alone, held=bool(held))
