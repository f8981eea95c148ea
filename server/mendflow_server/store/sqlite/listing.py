"""Lists of workflows: the best index for the conditions selects rows, and a bounded number of them is filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow_server.store.records import Cursor, Page
from mendflow_server.store.sqlite.bulk import read_rows, to_json
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.rows import FIRST_FINAL_STATE, from_columns

if TYPE_CHECKING:
    import sqlite3

    from mendflow_server.store.records import Filter

#: The most rows that one page examines.
MOST_EXAMINED: Final = 5_000

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1


def read_page(connection: sqlite3.Connection, condition: Filter, limit: int, after: Cursor | None) -> Page:
    """Return a page of workflows, newest first."""
    seen = _seen(condition)
    values = _values(condition, after)
    query = QUERIES["list_page"].replace("{seen}", seen)
    found = [from_columns(columns) for columns in read_rows(connection, query, {**values, "limit": limit + 1})]
    if len(found) > limit:
        last = found[limit - 1]
        return Page(found[:limit], Cursor(last.create_time, last.key))
    # Every row that may be examined was. If that is the limit, the next page begins after the last one.
    query = QUERIES["list_last_seen"].replace("{seen}", seen)
    place = connection.execute(query, values).fetchone()
    return Page(found, None if place is None else Cursor(*place))


def _seen(condition: Filter) -> str:
    """Return the query for the best index. An open state is better than the type: few workflows are open."""
    states = sorted(set(condition.states))
    if condition.labels:
        return QUERIES["seen_by_label"]
    if states and (states[-1] < FIRST_FINAL_STATE or not condition.workflow_type):
        # One branch per state; SQLite merges the branches in order.
        by_state = QUERIES["seen_by_state"]
        return " UNION ALL ".join(by_state.replace("{state}", f":state_{state:d}") for state in states)
    if condition.workflow_type:
        return QUERIES["seen_by_type"]
    return QUERIES["seen_by_time"]


def _values(condition: Filter, after: Cursor | None) -> dict[str, object]:
    """Return the parameters of all statements that a list may use."""
    ends = [(_LARGEST, _LARGEST)]
    if condition.create_time_until is not None:
        ends.append((condition.create_time_until, 0))
    if after is not None:
        ends.append((after.create_time, after.key))
    create_time, key = min(ends)
    label_name, label_value = condition.labels[0] if condition.labels else ("", "")
    return {
        "workflow_type": condition.workflow_type or None,
        "states": to_json(condition.states) if condition.states else None,
        "labels": to_json(condition.labels) if condition.labels else None,
        "label_name": label_name,
        "label_value": label_value,
        "earliest": _SMALLEST if condition.create_time_from is None else condition.create_time_from,
        "create_time": create_time,
        "key": key,
        "examined": MOST_EXAMINED,
        **{f"state_{state:d}": state for state in condition.states},
    }
