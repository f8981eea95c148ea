"""Many rows in one step of SQLite; ``queries.sql`` says why."""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

#: How many tuples a statement may have. The next larger one takes what there is, and NULLs for the rest, which every
#: statement passes over: so a batch is one statement a table, and all sizes of all stay in sqlite3's cache.
_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def write_rows(connection: sqlite3.Connection, name: str, values: list[Any], width: int) -> int:
    """Write rows of this width, whose values follow each other, and answer how many changed."""
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
    """Answer the rows of a query that answers them as one JSON array."""
    (found,) = connection.execute(query, values).fetchone()
    rows: list[Any] = json.loads(found)
    return rows


def to_json(items: Sequence[object]) -> str:
    """Make a list that a query reads with ``json_each``. Text that is no text raises when it is bound."""
    return json.dumps(items, ensure_ascii=False)
