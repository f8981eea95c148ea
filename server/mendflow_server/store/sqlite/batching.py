"""Many rows in one step of SQLite; ``queries.sql`` says why."""

from __future__ import annotations

import json
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

#: How many tuples one statement has: a batch takes few statements, and all sizes of all stay in sqlite3's cache.
_SIZES: Final = (256, 128, 64, 32, 16, 8, 4, 2, 1)


def write_rows(connection: sqlite3.Connection, name: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Write the rows and answer how many changed."""
    changed = 0
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size:
            values = list(chain.from_iterable(rows[start : start + size]))
            changed += connection.execute(_statement(name, len(rows[start]), size), values).rowcount
            start += size
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
