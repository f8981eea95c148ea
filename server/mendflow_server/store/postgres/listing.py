"""Lists of workflows: the best index for the conditions selects rows, and a bounded number of them is filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.rows import FIRST_FINAL_STATE, from_columns
from mendflow_server.store.records import Cursor, Page

if TYPE_CHECKING:
    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import Filter

#: The most rows that one page examines.
MOST_EXAMINED: Final = 5_000

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1


async def read_page(connection: Connection, condition: Filter, limit: int, after: Cursor | None) -> Page:
    """Return a page of workflows, newest first."""
    seen = seen_by(condition)
    values = _values(condition, after)
    query = QUERIES["list_page"].replace("{seen}", seen)
    found = [from_columns(columns) for columns in await connection.fetch(query, *values, limit + 1)]
    if len(found) > limit:
        last = found[limit - 1]
        return Page(found[:limit], Cursor(last.create_time, last.key))
    # Every row that may be examined was. If that is the limit, the next page begins after the last one.
    query = QUERIES["list_last_seen"].replace("{seen}", seen)
    place = await connection.fetchrow(query, *values)
    return Page(found, None if place is None else Cursor(*place))


def seen_by(condition: Filter) -> str:
    """Return the query for the best index. An open state is better than the type: few workflows are open."""
    states = sorted(set(condition.states))
    if condition.labels:
        return QUERIES["seen_by_label"]
    if states and (states[-1] < FIRST_FINAL_STATE or not condition.workflow_type):
        # The numbers of states are part of the statement, of which there are so few that each stays prepared.
        by_state = QUERIES["seen_by_state"]
        branches = " UNION ALL ".join(f"({by_state.replace('{state}', f'{state:d}')})" for state in states)
        return QUERIES["seen_by_states"].replace("{branches}", branches)
    if condition.workflow_type:
        return QUERIES["seen_by_type"]
    return QUERIES["seen_by_time"]


def _values(condition: Filter, after: Cursor | None) -> tuple[object, ...]:
    """Return the parameters of all statements that a list may use, except the limit of a page."""
    ends = [(_LARGEST, _LARGEST)]
    if condition.create_time_until is not None:
        ends.append((condition.create_time_until, 0))
    if after is not None:
        ends.append((after.create_time, after.key))
    create_time, key = min(ends)
    return (
        _SMALLEST if condition.create_time_from is None else condition.create_time_from,
        create_time,
        key,
        condition.workflow_type or None,
        list(condition.states) or None,
        [name for name, _ in condition.labels],
        [value for _, value in condition.labels],
        MOST_EXAMINED,
    )
