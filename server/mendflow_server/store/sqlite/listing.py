"""Lists: the best index for the conditions, the rest filtered over a bounded number of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow_server.store.records import Cursor, Page
from mendflow_server.store.sqlite.bulk import read_rows, to_json
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.rows import FIRST_FINAL_STATE, from_columns

if TYPE_CHECKING:
    import sqlite3

    from mendflow_server.store.records import Filter

#: Rows that one page looks at.
LOOKS: Final = 5_000

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1


def read_page(connection: sqlite3.Connection, condition: Filter, limit: int, after: Cursor | None) -> Page:
    """Answer a page, newest first."""
    seen = _seen(condition)
    values = _values(condition, after)
    query = QUERIES["list_page"].replace("{seen}", seen)
    found = [from_columns(columns) for columns in read_rows(connection, query, {**values, "limit": limit + 1})]
    if len(found) > limit:
        last = found[limit - 1]
        return Page(found[:limit], Cursor(last.create_time, last.key))
    # All that may be looked at was looked at; whether there is more is where the looks ended.
    query = QUERIES["list_last_seen"].replace("{seen}", seen)
    place = connection.execute(query, values).fetchone()
    return Page(found, None if place is None else Cursor(*place))


def _seen(condition: Filter) -> str:
    """Choose the index. Open states come before the type: there are few open workflows and many ended ones."""
    states = sorted(set(condition.states))
    if condition.labels:
        return QUERIES["seen_by_label"]
    if states and (states[-1] < FIRST_FINAL_STATE or not condition.workflow_type):
        # One branch for each state; SQLite merges them in order.
        by_state = QUERIES["seen_by_state"]
        return " UNION ALL ".join(by_state.replace("{state}", f":state_{state:d}") for state in states)
    if condition.workflow_type:
        return QUERIES["seen_by_type"]
    return QUERIES["seen_by_time"]


def _values(condition: Filter, after: Cursor | None) -> dict[str, object]:
    """Answer the values of all the statements that a list may be made of."""
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
        "looks": LOOKS,
        **{f"state_{state:d}": state for state in condition.states},
    }
