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

#: All columns that `Row` has, in the order of its fields. ``key`` is the first.
COLUMNS: Final = tuple(field.name for field in fields(Row))
#: The columns of an insert. A new workflow is not held, which is the column's default.
INSERTED_COLUMNS: Final = COLUMNS[: COLUMNS.index("held")]
#: The columns that change after the insert, in the order in which a commit takes them.
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

#: The types of the columns that are no bigint.
_TYPES: Final = {
    **dict.fromkeys(("workflow_id", "uid", "workflow_type", "explanation", "replica_id", "trace_id", "labels"), "text"),
    **dict.fromkeys(("state", "reason", "untaken_signals"), "integer"),
}
#: The smallest number of a final state; see `mendflow.v1.WorkflowState`.
FIRST_FINAL_STATE: Final = 7

#: The arrays of a commit, in the order of its parameters: a placeholder of ``queries.sql``, and each array's type.
ARRAYS: Final = {
    "inserted_arrays": tuple(_TYPES.get(name, "bigint") for name in INSERTED_COLUMNS),
    "updated_arrays": ("bigint", "bigint", "bigint", *(_TYPES.get(name, "bigint") for name in UPDATED_COLUMNS)),
    "event_arrays": ("bigint", "bigint", "bytea"),
    "label_arrays": ("text", "text", "bigint", "bigint"),
    "ended_arrays": ("bigint",),
    "consumed_arrays": ("bigint", "bigint"),
    "heartbeat_arrays": ("bigint", "text", "integer", "bytea"),
    "alert_arrays": ("bigint", "bigint", "text", "integer", "text"),
}


def fill_in(statement: str) -> str:
    """Return a statement of ``queries.sql`` with the columns and arrays in the place of its placeholders."""
    number = 0
    for placeholder, types in ARRAYS.items():
        arrays = [f"${number + index}::{kind}[]" for index, kind in enumerate(types, start=1)]
        number += len(types)
        statement = statement.replace(f"{{{placeholder}}}", ", ".join(arrays))
    guarded = " AND ".join(f"workflows.{name} = given.guard_{name}" for name in Guard._fields)
    return (
        statement.replace("{columns}", ", ".join(COLUMNS))
        .replace("{inserted}", ", ".join(INSERTED_COLUMNS))
        .replace("{assignments}", ", ".join(f"{name} = given.{name}" for name in UPDATED_COLUMNS))
        .replace("{given}", ", ".join(("key", *(f"guard_{name}" for name in Guard._fields), *UPDATED_COLUMNS)))
        .replace("{guard}", f"workflows.key = given.key AND {guarded}")
    )


def text(given: str) -> str:
    """Return a text for people as PostgreSQL takes it, which knows no NUL. The history keeps the original."""
    return given.replace("\0", "\N{SYMBOL FOR NULL}") if "\0" in given else given


# Each name is written out: `operator.attrgetter` takes more than twice as long, and each change needs one of these.


def to_insert(row: Row, key: int) -> tuple[object, ...]:
    """Return the values of a new workflow, in the order of `INSERTED_COLUMNS`."""
    return (
        key,
        row.workflow_id,
        row.uid,
        row.workflow_type,
        row.state,
        row.reason,
        text(row.explanation),
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


def to_update(row: Row, guard: Guard) -> tuple[object, ...]:
    """Return the values of an update: the key, the guard, and then the order of `UPDATED_COLUMNS`."""
    return (
        row.key,
        guard.generation,
        guard.last_sequence,
        row.state,
        row.reason,
        text(row.explanation),
        row.generation,
        row.replica_id,
        row.last_sequence,
        row.wake_time,
        row.end_time,
        row.untaken_signals,
    )


def from_columns(columns: Sequence[Any]) -> Row:
    """Return the row whose columns are in the order of `COLUMNS`. Raise `StoreDamaged` if its labels are none."""
    row = Row(*columns)
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
