"""What the lists of all stores share: the best index for the conditions, the part of it to read, and the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow_server.store.records import FIRST_FINAL_STATE, Cursor, Page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.records import Filter, Row

#: The most rows that one page examines.
MOST_EXAMINED: Final = 5_000

_SMALLEST: Final = -(2**63)
_LARGEST: Final = 2**63 - 1


def best_index(condition: Filter) -> str:
    """Return the name of the query for the best index: seen_by_label, seen_by_state, seen_by_type or seen_by_time.

    An open state is better than the type: few workflows are open.
    """
    if condition.labels:
        return "seen_by_label"
    if condition.states and (max(condition.states) < FIRST_FINAL_STATE or not condition.workflow_type):
        return "seen_by_state"
    return "seen_by_type" if condition.workflow_type else "seen_by_time"


def part_to_read(condition: Filter, after: Cursor | None) -> tuple[int, Cursor]:
    """Return the earliest create time of a page's rows, and the place that they are all before."""
    ends = [(_LARGEST, _LARGEST)]
    if condition.create_time_until is not None:
        ends.append((condition.create_time_until, 0))
    if after is not None:
        ends.append((after.create_time, after.key))
    return _SMALLEST if condition.create_time_from is None else condition.create_time_from, Cursor(*min(ends))


def full_page(found: Sequence[Row], limit: int) -> Page | None:
    """Return the page of the first ``limit`` rows if more were found, or else None."""
    if len(found) <= limit:
        return None
    last = found[limit - 1]
    return Page(list(found[:limit]), Cursor(last.create_time, last.key))


def short_page(found: list[Row], last_seen: Sequence[int] | None) -> Page:
    """Return a page of all rows found. ``last_seen`` is the place of the last row that may be examined; None: the end.

    Every row that may be examined was, so the next page begins after the last one of them.
    """
    return Page(found, None if last_seen is None else Cursor(*last_seen))
