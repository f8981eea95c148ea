"""Lists of workflows: the best index for the conditions selects rows, and a bounded number of them is filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.columns import row_of
from mendflow_server.store.listing import MOST_EXAMINED, best_index, full_page, part_to_read, short_page
from mendflow_server.store.sqlite.bulk import read_rows, to_json
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3

    from mendflow_server.store.records import Cursor, Filter, Page


def read_page(connection: sqlite3.Connection, condition: Filter, limit: int, after: Cursor | None) -> Page:
    """Return a page of workflows, newest first."""
    seen = _seen_by(condition)
    values = _values(condition, after)
    query = QUERIES["list_page"].replace("{seen}", seen)
    found = [row_of(columns) for columns in read_rows(connection, query, {**values, "limit": limit + 1})]
    page = full_page(found, limit)
    if page is not None:
        return page
    query = QUERIES["list_last_seen"].replace("{seen}", seen)
    return short_page(found, connection.execute(query, values).fetchone())


def _seen_by(condition: Filter) -> str:
    name = best_index(condition)
    if name != "seen_by_state":
        return QUERIES[name]
    # One branch per state; SQLite merges the branches in order.
    return " UNION ALL ".join(
        QUERIES[name].replace("{state}", f":state_{state:d}") for state in sorted(set(condition.states))
    )


def _values(condition: Filter, after: Cursor | None) -> dict[str, object]:
    """Return the parameters of all statements that a list may use."""
    earliest, end = part_to_read(condition, after)
    label_name, label_value = condition.labels[0] if condition.labels else ("", "")
    return {
        "workflow_type": condition.workflow_type or None,
        "states": to_json(condition.states) if condition.states else None,
        "labels": to_json(condition.labels) if condition.labels else None,
        "label_name": label_name,
        "label_value": label_value,
        "earliest": earliest,
        "create_time": end.create_time,
        "key": end.key,
        "examined": MOST_EXAMINED,
        **{f"state_{state:d}": state for state in condition.states},
    }
