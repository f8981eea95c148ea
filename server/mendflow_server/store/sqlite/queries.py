"""The statements of ``queries.sql``, by name."""

from __future__ import annotations

from typing import Final

from mendflow_server.store.columns import COLUMNS, GUARDED_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS
from mendflow_server.store.sql_files import read_statements

#: SQLite names the values of an updated row ``column1``, ``column2``, ….
_UPDATES: Final = [
    f"{name} = column{number}" for number, name in enumerate((*UPDATED_COLUMNS, *GUARDED_COLUMNS), start=1)
]
#: What stands for columns in ``queries.sql``: all of them, those of an insert, the updated ones, each set to its value,
#: and the comparison with the guard.
_PLACEHOLDERS: Final = {
    "columns": ", ".join(COLUMNS),
    "inserted": ", ".join(INSERTED_COLUMNS),
    "assignments": ", ".join(_UPDATES[: len(UPDATED_COLUMNS)]),
    "guard": " AND ".join(_UPDATES[len(UPDATED_COLUMNS) :]),
}

#: The statements by name. ``listing.py`` inserts one of the fragments ``seen_by_…`` into the statements of lists.
QUERIES: Final = read_statements(__package__, _PLACEHOLDERS)
