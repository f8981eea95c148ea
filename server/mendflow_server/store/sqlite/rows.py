"""A workflow's row to and from SQL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.records import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.records import Guard


#: How many values `to_insert` and `to_update` answer.
INSERTED: Final = 16
UPDATED: Final = 12


def to_insert(row: Row, key: int) -> tuple[object, ...]:
    """Answer the values of ``insert_workflow``."""
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
    """Answer the values of ``update_workflow``."""
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
    """Make a row of the columns in the order of the schema."""
    row = Row(*columns)
    try:
        row.labels = {} if columns[-1] == "{}" else json.loads(columns[-1])
    except ValueError as error:
        message = f"the labels of workflow {row.workflow_id!r} are damaged; stop the server and restore a copy"
        raise StoreDamaged(message) from error
    return row
