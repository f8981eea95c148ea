"""Lists: every page has what the filter selects, newest first, without gaps or repeats."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.records import Batch, Filter
from tests.store.builders import PAUSED, RUNNING, SUCCEEDED, WAITING, make_row, new

if TYPE_CHECKING:
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Row

STATES = [RUNNING, WAITING, PAUSED, SUCCEEDED]

FILTERS = [
    Filter(),
    Filter(workflow_type="checkout"),
    Filter(workflow_type="none"),
    Filter(states=(RUNNING,)),
    Filter(states=(SUCCEEDED, RUNNING)),
    Filter(states=(WAITING, PAUSED, RUNNING, RUNNING)),
    Filter(labels=(("shop", "1"),)),
    Filter(labels=(("shop", "1"), ("tier", "gold"))),
    Filter(labels=(("tier", "gold"), ("shop", "9"))),
    Filter(labels=(("tier", "gold"),), states=(WAITING, SUCCEEDED), workflow_type="checkout"),
    Filter(workflow_type="refund", states=(WAITING,)),
    Filter(workflow_type="refund", states=(WAITING, SUCCEEDED)),
    Filter(create_time_from=1_005),
    Filter(create_time_until=1_005),
    Filter(create_time_from=1_003, create_time_until=1_004),
    Filter(create_time_from=1_005, create_time_until=1_005),
    Filter(create_time_from=1_002, create_time_until=1_009, states=(RUNNING, SUCCEEDED), workflow_type="checkout"),
    Filter(create_time_from=1_002, create_time_until=1_009, labels=(("shop", "2"),)),
]


def make_rows() -> list[Row]:
    """Return rows whose times repeat and do not rise with the keys, as after a clock was set back."""
    rows = []
    for number in range(60):
        state = STATES[number % 4]
        labels = {"shop": str(number % 3)}
        if number % 5 == 0:
            labels["tier"] = "gold"
        row = make_row(f"order-{number}", state=state, labels=labels, create_time=1_000 + (number * 7) % 12)
        row.workflow_type = "checkout" if number % 7 else "refund"
        if state == SUCCEEDED:
            row.end_time = 5_000
        rows.append(row)
    return rows


def matches(row: Row, condition: Filter) -> bool:
    return (
        condition.workflow_type in {"", row.workflow_type}
        and (not condition.states or row.state in condition.states)
        and all(row.labels.get(name) == value for name, value in condition.labels)
        and (condition.create_time_from is None or row.create_time >= condition.create_time_from)
        and (condition.create_time_until is None or row.create_time < condition.create_time_until)
    )


@pytest.mark.parametrize("limit", [1, 7, 1_000])
async def test_the_pages_of_every_filter_are_complete_and_in_order(store: Store, limit: int) -> None:
    rows = make_rows()
    await store.commit(Batch([new(row, b"one") for row in rows]))
    newest_first = sorted(rows, key=lambda row: (row.create_time, row.key), reverse=True)
    for condition in FILTERS:
        got: list[Row] = []
        after = None
        for _ in range(len(rows) + 2):
            page = await store.list_workflows(condition, limit=limit, after=after)
            assert len(page.rows) <= limit
            got += page.rows
            after = page.next
            if after is None:
                break
        assert after is None
        assert got == [row for row in newest_first if matches(row, condition)], condition


async def test_workflows_that_start_between_pages_change_no_page(store: Store) -> None:
    rows = [make_row(f"order-{number}", create_time=1_000 + number) for number in range(10)]
    await store.commit(Batch([new(row, b"one") for row in rows]))
    first = await store.list_workflows(Filter(), limit=4, after=None)
    await store.commit(Batch([new(make_row(f"late-{number}", create_time=2_000), b"one") for number in range(5)]))
    second = await store.list_workflows(Filter(), limit=1_000, after=first.next)
    assert [row.workflow_id for row in first.rows + second.rows] == [f"order-{number}" for number in range(9, -1, -1)]


@pytest.mark.parametrize(
    "condition",
    [
        Filter(workflow_type="many", states=(SUCCEEDED,), create_time_from=0),
        Filter(labels=(("common", "yes"), ("rare", "yes"))),
        Filter(labels=(("common", "yes"),), states=(SUCCEEDED,)),
        Filter(states=(RUNNING, SUCCEEDED), labels=(("common", "yes"), ("rare", "yes"))),
    ],
)
async def test_a_page_looks_at_a_bounded_number_of_rows(store: Store, condition: Filter) -> None:
    # Only the oldest of 6,000 fits the filter, so the first 5,000 rows that the query reads do not include it.
    rows = [
        make_row(f"order-{number}", workflow_type="many", create_time=number, labels={"common": "yes"})
        for number in range(6_000)
    ]
    rows[0].state, rows[0].end_time = SUCCEEDED, 9
    rows[0].labels["rare"] = "yes"
    for start in range(0, 6_000, 500):
        await store.commit(Batch([new(row, b"one") for row in rows[start : start + 500]]))
    page = await store.list_workflows(condition, limit=10, after=None)
    assert page.rows == []
    assert page.next is not None
    assert page.next.create_time == rows[1_000].create_time
    page = await store.list_workflows(condition, limit=10, after=page.next)
    assert page.rows == [rows[0]]
    assert page.next is None


async def test_an_open_state_is_found_at_once_among_many_ended(store: Store) -> None:
    rows = [make_row(f"order-{number}", create_time=number, state=SUCCEEDED, end_time=9) for number in range(6_000)]
    rows[0].state, rows[0].end_time = RUNNING, None
    for start in range(0, 6_000, 500):
        await store.commit(Batch([new(row, b"one") for row in rows[start : start + 500]]))
    page = await store.list_workflows(Filter(workflow_type="checkout", states=(RUNNING,)), limit=10, after=None)
    assert page.rows == [rows[0]]
    assert page.next is None
    page = await store.list_workflows(Filter(states=(SUCCEEDED, RUNNING)), limit=1_000, after=None)
    assert len(page.rows) == 1_000
    assert all(one.create_time > two.create_time for one, two in pairwise(page.rows))
