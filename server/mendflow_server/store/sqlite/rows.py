"""Conversion between `Row` and the columns of the table ``workflows``.

The fields of `Row` are the one list of the columns. ``queries.sql`` names that list with placeholders, which
`fill_in` replaces.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.records import Guard, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

#: All columns, in the order of `Row`'s fields. ``key`` is the first.
COLUMNS: Final = tuple(field.name for field in fields(Row))
#: The columns of an insert. A new workflow is not held, which is the column's default.
INSERTED_COLUMNS: Final = COLUMNS[: COLUMNS.index("held")]
#: The columns that change after the insert, in the order in which ``update_workflow`` takes them.
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
#: The columns that must still hold the values of the guard.
GUARDED_COLUMNS: Final = ("key", *Guard._fields)

#: How many values `to_insert` and `to_update` return.
INSERT_WIDTH: Final = len(INSERTED_COLUMNS)
UPDATE_WIDTH: Final = len(UPDATED_COLUMNS) + len(GUARDED_COLUMNS)

#: The smallest number of a final state; see `mendflow.v1.WorkflowState`.
FIRST_FINAL_STATE: Final = 7


def fill_in(statement: str) -> str:
    """Return a statement of ``queries.sql`` with the columns in the place of its placeholders.

    ``{columns}`` stands for all columns, ``{inserted}`` for those of an insert, ``{assignments}`` for the updated ones,
    each set to its value, and ``{guard}`` for the comparison with the guard. SQLite names the values of a row
    ``column1``, ``column2``, ….
    """
    values = [f"{name} = column{number}" for number, name in enumerate((*UPDATED_COLUMNS, *GUARDED_COLUMNS), start=1)]
    return (
        statement.replace("{columns}", ", ".join(COLUMNS))
        .replace("{inserted}", ", ".join(INSERTED_COLUMNS))
        .replace("{assignments}", ", ".join(values[: len(UPDATED_COLUMNS)]))
        .replace("{guard}", " AND ".join(values[len(UPDATED_COLUMNS) :]))
    )


# Each name is written out: `operator.attrgetter` takes more than twice as long, and each change needs one of these.


def to_insert(row: Row, key: int) -> tuple[object, ...]:
    """Return the values of ``insert_workflow``, in the order of `INSERTED_COLUMNS`."""
    return (
        key,
        row.workflow_id,
        row.uid,
        row.workflow_type,
        row.state,
        row.reason,
        row.explanation,
        row.generation,
        row.replica_id,
        row.last_sequence,
        row.wake_time,
        row.create_time,
        row.end_time,
        row.untaken_signals,
        row.trace_id,
        json.dumps(row.labels, separators=(",", ":")) if row.labels else "{}",
    )


def to_update(row: Row, guard: Guard) -> tuple[object, ...]:
    """Return the values of ``update_workflow``, in the order of `UPDATED_COLUMNS` and `GUARDED_COLUMNS`."""
    return (
        row.state,
        row.reason,
        row.explanation,
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


def from_columns(columns: Sequence[Any]) -> Row:
    """Return the row whose columns are in the order of `COLUMNS`. Raise `StoreDamaged` if its labels are none."""
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
