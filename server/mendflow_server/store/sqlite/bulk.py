"""Read and write many rows in one step of SQLite; ``queries.sql`` explains why."""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

#: The numbers of tuples that a statement may have. A smaller number of rows is filled up with tuples of NULLs, which
#: every statement ignores. So a batch needs one statement per table, and sqlite3 caches the statements of all sizes.
_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def write_rows(connection: sqlite3.Connection, name: str, values: list[Any], width: int) -> int:
    """Write rows and return the number of rows that changed. ``values`` has ``width`` values for each row in turn."""
    changed = 0
    most = _SIZES[-1] * width
    for start in range(0, len(values), most):
        part = values if len(values) <= most else values[start : start + most]
        count = len(part) // width
        size = _SIZES[bisect_left(_SIZES, count)]
        if size > count:
            part = part + [None] * ((size - count) * width)
        changed += connection.execute(_statement(name, width, size), part).rowcount
    return changed


@cache
def _statement(name: str, width: int, size: int) -> str:
    one = f"({', '.join('?' * width)})"
    return QUERIES[name].replace("{values}", ", ".join([one] * size))


def read_rows(connection: sqlite3.Connection, query: str, values: Mapping[str, object]) -> list[Any]:
    """Return the rows of a query whose result is one JSON array of rows."""
    (found,) = connection.execute(query, values).fetchone()
    rows: list[Any] = json.loads(found)
    return rows


def to_json(items: Sequence[object]) -> str:
    """Return a list as JSON, for ``json_each`` in a query. Invalid Unicode raises when SQLite binds the value."""
    return json.dumps(items, ensure_ascii=False)
