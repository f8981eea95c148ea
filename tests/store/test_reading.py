"""Reads: their order, their limits and their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.records import Batch
from tests.store.builders import (
    CANCELLING,
    PAUSED,
    RUNNING,
    WAITING,
    begin,
    commit,
    end,
    follow,
    make_row,
    new,
    signal,
    start,
)

if TYPE_CHECKING:
    from mendflow_server.store.interface import Store


@pytest.mark.parametrize(
    ("after", "limit", "max_bytes", "expected"),
    [
        (0, 10, 1_000, [b"a" * 10, b"b" * 10, b"c" * 30, b"d"]),
        (2, 10, 1_000, [b"c" * 30, b"d"]),
        (0, 2, 1_000, [b"a" * 10, b"b" * 10]),
        (0, 10, 20, [b"a" * 10, b"b" * 10]),
        (0, 10, 19, [b"a" * 10]),
        (0, 10, 0, [b"a" * 10]),
        (2, 10, 1, [b"c" * 30]),
        (4, 10, 1_000, []),
        (99, 10, 1_000, []),
    ],
)
async def test_events_are_read_within_both_limits(
    store: Store, after: int, limit: int, max_bytes: int, expected: list[bytes]
) -> None:
    await start(store, "before", b"x")
    row = await start(store, "order-1", b"a" * 10, b"b" * 10, b"c" * 30, b"d")
    await start(store, "after", b"x")
    assert await store.read_events(row.key, after, limit=limit, max_bytes=max_bytes) == expected


async def test_loads_keep_the_order_asked_for_and_leave_out_what_is_missing(store: Store) -> None:
    rows = [await start(store, f"order-{number}") for number in range(3)]
    keys = [rows[2].key, 999, rows[0].key]
    assert [loaded.row for loaded in await store.load(keys)] == [rows[2], rows[0]]
    assert await store.load([]) == []
    assert await store.find([]) == {}
    assert await store.heads([]) == {}


async def test_more_workflows_than_one_read_takes_are_loaded_whole(store: Store) -> None:
    rows = [make_row(f"order-{number}") for number in range(250)]
    await store.commit(Batch([new(row, b"1", b"2") for row in rows], [signal("order-249")]))
    loaded = await store.load([row.key for row in rows])
    assert [each.row for each in loaded] == rows
    assert [len(each.inbox) for each in loaded] == [0] * 249 + [1]


async def test_long_and_large_histories_are_loaded_whole(store: Store) -> None:
    long = await start(store, "long", *(b"%d" % number for number in range(2_500)))
    large = await start(store, "large", *(bytes([number]) * 1_500_000 for number in range(5)))
    short = await start(store, "short", b"", b"x")
    loaded = await store.load([short.key, large.key, long.key])
    assert loaded[0].events == [b"", b"x"]
    assert loaded[1].events == [bytes([number]) * 1_500_000 for number in range(5)]
    assert loaded[2].events == [b"%d" % number for number in range(2_500)]


async def test_due_returns_open_workflows_earliest_first(store: Store) -> None:
    await begin(store)
    times = [30, 10, None, 20, 10, 99]
    rows = [await start(store, f"order-{number}", state=WAITING, wake_time=time) for number, time in enumerate(times)]
    expected = [(10, rows[1].key), (10, rows[4].key), (20, rows[3].key), (30, rows[0].key)]
    assert await store.due(30, limit=10) == expected
    assert await store.due(30, limit=2) == expected[:2]
    assert await store.due(9, limit=10) == []
    await commit(store, end(rows[1]), follow(rows[4], b"later", fields={"wake_time": 31}))
    assert await store.due(30, limit=10) == expected[2:]


async def test_in_progress_returns_running_workflows_and_those_with_messages(store: Store) -> None:
    await begin(store)
    states = [1, RUNNING, WAITING, PAUSED, 5, CANCELLING, WAITING]
    rows = [await start(store, f"order-{number}", state=state) for number, state in enumerate(states)]
    ended = await start(store, "ended")
    await commit(store, end(ended), messages=(signal("order-3"), signal("order-3"), signal("order-1")))
    expected = [rows[index].key for index in (0, 1, 3, 5)]
    assert await store.in_progress(after_key=0, limit=10) == expected
    for size in (1, 2, 3):
        pages, after = [], 0
        while page := await store.in_progress(after_key=after, limit=size):
            assert len(page) <= size
            pages += page
            after = page[-1]
        assert pages == expected


async def test_stopped_for_returns_open_workflows_of_that_reason(store: Store) -> None:
    await begin(store)
    rows = [await start(store, f"order-{number}", state=PAUSED, reason=5 + number % 2) for number in range(6)]
    await commit(store, end(rows[2]))
    assert await store.stopped_for(5, after_key=0, limit=10) == [rows[0].key, rows[4].key]
    assert await store.stopped_for(5, after_key=rows[0].key, limit=10) == [rows[4].key]
    assert await store.stopped_for(6, after_key=0, limit=2) == [rows[1].key, rows[3].key]
    assert await store.stopped_for(7, after_key=0, limit=10) == []


async def test_snapshot_of_an_open_workflow_has_its_first_event_only(store: Store) -> None:
    row = await start(store, "order-1", b"first")
    await commit(store, follow(row, b"second"))
    snapshot = await store.snapshot(row.workflow_id)
    assert snapshot is not None
    assert (snapshot.row.last_sequence, snapshot.first, snapshot.last) == (2, b"first", None)


async def test_snapshot_of_an_ended_workflow_has_its_first_and_last_event(store: Store) -> None:
    row = await start(store, "order-1", b"first")
    await commit(store, end(row, b"second", b"last"))
    snapshot = await store.snapshot(row.workflow_id)
    assert snapshot is not None
    assert (snapshot.row.last_sequence, snapshot.first, snapshot.last) == (3, b"first", b"last")


async def test_snapshot_of_an_unknown_workflow_is_none(store: Store) -> None:
    await start(store)
    assert await store.snapshot("unknown") is None
