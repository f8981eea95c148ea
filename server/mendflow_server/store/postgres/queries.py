"""The statements of ``queries.sql``, by name."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from mendflow_server.store.columns import COLUMNS, GUARDED_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS
from mendflow_server.store.records import Guard
from mendflow_server.store.sql_files import read_statements

#: The types of the columns that are no bigint.
_TYPES: Final = {
    **dict.fromkeys(("workflow_id", "uid", "workflow_type", "explanation", "replica_id", "trace_id", "labels"), "text"),
    **dict.fromkeys(("state", "reason", "untaken_signals"), "integer"),
}

#: The arrays of a commit, in the order of its parameters: a placeholder of ``queries.sql``, and each array's type.
ARRAYS: Final = {
    "inserted_arrays": tuple(_TYPES.get(name, "bigint") for name in INSERTED_COLUMNS),
    "updated_arrays": tuple(_TYPES.get(name, "bigint") for name in (*UPDATED_COLUMNS, *GUARDED_COLUMNS)),
    "event_arrays": ("bigint", "bigint", "bytea"),
    "label_arrays": ("text", "text", "bigint", "bigint"),
    "ended_arrays": ("bigint",),
    "consumed_arrays": ("bigint", "bigint"),
    "heartbeat_arrays": ("bigint", "text", "integer", "bytea"),
    "alert_arrays": ("bigint", "bigint", "text", "integer", "text"),
}


def _placeholders() -> dict[str, str]:
    """Return what stands for columns and arrays in ``queries.sql``.

    Beside all columns and those of an insert: the names of an update's values, the updated columns, each set to its
    value, the comparison with the guard, and the arrays of `ARRAYS`.
    """
    guards = {name: f"guard_{name}" for name in Guard._fields}
    found = {
        "columns": ", ".join(COLUMNS),
        "inserted": ", ".join(INSERTED_COLUMNS),
        "given": ", ".join((*UPDATED_COLUMNS, *(guards.get(name, name) for name in GUARDED_COLUMNS))),
        "assignments": ", ".join(f"{name} = given.{name}" for name in UPDATED_COLUMNS),
        "guard": " AND ".join(f"workflows.{name} = given.{guards.get(name, name)}" for name in GUARDED_COLUMNS),
    }
    starts = accumulate(map(len, ARRAYS.values()), initial=1)
    for (placeholder, types), start in zip(ARRAYS.items(), starts, strict=False):
        found[placeholder] = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, start=start))
    return found


#: The statements by name. ``listing.py`` inserts one of the fragments ``seen_by_…`` into the statements of lists.
QUERIES: Final = read_statements(__package__, _placeholders())
