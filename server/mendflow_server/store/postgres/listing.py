"""Lists of workflows: the best index for the conditions selects rows, and a bounded number of them is filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.columns import row_of
from mendflow_server.store.listing import MOST_EXAMINED, best_index, full_page, part_to_read, short_page
from mendflow_server.store.postgres.queries import QUERIES

if TYPE_CHECKING:
    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import Cursor, Filter, Page


async def read_page(connection: Connection, condition: Filter, limit: int, after: Cursor | None) -> Page:
    """Return a page of workflows, newest first."""
    seen = seen_by(condition)
    values = _values(condition, after)
    query = QUERIES["list_page"].replace("{seen}", seen)
    found = [row_of(columns) for columns in await connection.fetch(query, *values, limit + 1)]
    page = full_page(found, limit)
    if page is not None:
        return page
    query = QUERIES["list_last_seen"].replace("{seen}", seen)
    return short_page(found, await connection.fetchrow(query, *values))


def seen_by(condition: Filter) -> str:
    """Return the query for the best index."""
    name = best_index(condition)
    if name != "seen_by_state":
        return QUERIES[name]
    # The numbers of states are part of the statement, of which there are so few that each stays prepared.
    branches = " UNION ALL ".join(
        f"({QUERIES[name].replace('{state}', f'{state:d}')})" for state in sorted(set(condition.states))
    )
    return QUERIES["seen_by_states"].replace("{branches}", branches)


def _values(condition: Filter, after: Cursor | None) -> tuple[object, ...]:
    """Return the parameters of all statements that a list may use, except the limit of a page."""
    earliest, end = part_to_read(condition, after)
    return (
        earliest,
        end.create_time,
        end.key,
        condition.workflow_type or None,
        list(condition.states) or None,
        [name for name, _ in condition.labels],
        [value for _, value in condition.labels],
        MOST_EXAMINED,
    )
