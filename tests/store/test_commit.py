"""Changes: each outcome, the guard, and that one refusal does not affect the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.errors import StoreError
from mendflow_server.store.records import Alert, Batch, Change, CommitOutcome, Guard, Heartbeat
from tests.store.builders import WAITING, commit, end, follow, make_row, new, send, signal, start

if TYPE_CHECKING:
    from mendflow_server.store.interface import Store


async def test_a_new_workflow_is_stored_whole(store: Store) -> None:
    row = make_row(
        state=WAITING, reason=1, explanation="sleep", wake_time=7, untaken_signals=2, labels={"shop": "é", "a": ""}
    )
    events = [b"\x00\xff" * 10, b"", bytes(range(256))]
    result = await commit(store, new(row, *events))
    assert result.changes == [CommitOutcome.COMMITTED]
    assert row.key > 0
    (loaded,) = await store.load([row.key])
    assert loaded.row == row
    assert loaded.events == events
    assert loaded.inbox == []
    assert loaded.heartbeats == []


async def test_keys_rise_and_ids_are_taken_once(store: Store) -> None:
    first = await start(store)
    again, other = make_row(uid="another"), make_row("order-2")
    result = await commit(store, new(again, b"stolen"), new(other, b"mine"))
    assert result.changes == [CommitOutcome.ID_EXISTS, CommitOutcome.COMMITTED]
    assert again.key == 0
    assert other.key > first.key
    found = await store.find(["order-1", "order-2", "order-3"])
    assert found == {"order-1": first, "order-2": other}
    assert (await store.load([first.key]))[0].events == [b"one", b"two"]


async def test_the_same_id_twice_in_one_batch_is_taken_once(store: Store) -> None:
    result = await commit(store, new(make_row(), b"first"), new(make_row(), b"second"))
    assert result.changes == [CommitOutcome.COMMITTED, CommitOutcome.ID_EXISTS]


@pytest.mark.parametrize("guard", [Guard(0, 2), Guard(2, 2), Guard(1, 1), Guard(1, 3)])
async def test_a_change_with_another_guard_is_lost(store: Store, guard: Guard) -> None:
    row = await start(store)
    stale = make_row(key=row.key, state=WAITING, generation=5, last_sequence=guard.last_sequence + 1)
    change = Change(
        stale,
        guard,
        [(guard.last_sequence + 1, b"stale")],
        heartbeats=(Heartbeat("charge", 1, b"stale"),),
        alerts=(Alert(1, "a", 1, "stale"),),
    )
    neighbour = make_row("order-2")
    result = await commit(store, change, new(neighbour, b"one"))
    assert result.changes == [CommitOutcome.CONFLICT, CommitOutcome.COMMITTED]
    (loaded,) = await store.load([row.key])
    assert (loaded.row, loaded.events, loaded.heartbeats) == (row, [b"one", b"two"], [])
    assert set(await store.find(["order-2"])) == {"order-2"}


async def test_a_change_of_a_workflow_that_is_not_there_is_lost(store: Store) -> None:
    change = Change(make_row(key=99, last_sequence=3), Guard(1, 2), [(3, b"lost")])
    assert (await commit(store, change)).changes == [CommitOutcome.CONFLICT]
    assert await store.load([99]) == []


async def test_a_second_driver_stops_the_first(store: Store) -> None:
    row = await start(store)
    mine = make_row(key=row.key, last_sequence=2)
    taken_over = follow(row, b"taken over", fields={"generation": 2, "replica_id": "replica-b"})
    assert (await commit(store, taken_over)).changes == [CommitOutcome.COMMITTED]
    assert (await commit(store, follow(mine, b"too late"))).changes == [CommitOutcome.CONFLICT]
    assert await store.heads([row.key, 12345]) == {row.key: Guard(2, 3)}


async def test_the_row_holds_what_the_driver_wrote(store: Store) -> None:
    row = await start(store, labels={"shop": "7"})
    fields = {"state": WAITING, "reason": 2, "explanation": "paid", "wake_time": 77, "untaken_signals": 3}
    await commit(store, follow(row, b"three", fields=fields))
    assert (await store.find(["order-1"]))["order-1"] == row
    await commit(store, end(row))
    assert (await store.find(["order-1"]))["order-1"] == row
    assert row.end_time is not None


async def test_a_workflow_may_start_and_end_in_one_commit(store: Store) -> None:
    row = make_row(state=7, end_time=2_000)
    assert (await commit(store, new(row, b"start", b"end", final=True))).changes == [CommitOutcome.COMMITTED]
    assert await store.in_progress(after_key=0, limit=10) == []
    assert await send(store, signal()) == [CommitOutcome.WORKFLOW_ENDED]


async def test_heartbeats_keep_the_latest_until_the_end(store: Store) -> None:
    row = await start(store)
    await commit(store, follow(row, heartbeats=(Heartbeat("charge", 1, b"10 %"), Heartbeat("ship", 1, b"x"))))
    await commit(store, follow(row, b"three", heartbeats=(Heartbeat("charge", 2, b"\x00"),)))
    (loaded,) = await store.load([row.key])
    assert loaded.heartbeats == [Heartbeat("charge", 2, b"\x00"), Heartbeat("ship", 1, b"x")]
    await commit(store, end(row))
    assert (await store.load([row.key]))[0].heartbeats == []


async def test_a_gap_in_the_history_is_refused_and_nothing_is_written(store: Store) -> None:
    row = await start(store)
    change = Change(make_row(key=row.key, last_sequence=4), Guard(1, 2), [(4, b"gap")])
    with pytest.raises(StoreError, match="leave a gap"):
        await commit(store, new(make_row("order-2"), b"one"), change)
    assert await store.find(["order-2"]) == {}
    assert (await commit(store, follow(row, b"three"))).changes == [CommitOutcome.COMMITTED]


async def test_a_malformed_value_writes_nothing_of_its_batch(store: Store) -> None:
    row = await start(store)
    for fields in ({"state": 11}, {"explanation": "\ud800"}, {"wake_time": 2**63}, {"end_time": 1}):
        with pytest.raises(StoreError):
            await commit(store, new(make_row("order-2"), b"one"), new(make_row("order-3", **fields), b"one"))
    assert await store.find(["order-2", "order-3"]) == {}
    assert (await commit(store, follow(row, b"three"))).changes == [CommitOutcome.COMMITTED]


async def test_a_commit_whose_caller_disconnects_is_not_lost(store: Store) -> None:
    row = make_row()
    task = asyncio.ensure_future(commit(store, new(row, b"one"), messages=(signal(),)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Commits keep their order, so this one is second.
    assert (await commit(store, new(make_row("order-2"), b"one"))).changes == [CommitOutcome.COMMITTED]
    (loaded,) = await store.load([(await store.find(["order-1"]))["order-1"].key])
    assert loaded.events == [b"one"]
    assert len(loaded.inbox) == 1


async def test_many_at_once_all_get_their_own_answer(store: Store) -> None:
    rows = [make_row(f"order-{number}") for number in range(200)]
    results = await asyncio.gather(*(commit(store, new(row, b"%d" % number)) for number, row in enumerate(rows)))
    assert all(result.changes == [CommitOutcome.COMMITTED] for result in results)
    loaded = await store.load([row.key for row in reversed(rows)])
    assert [each.events for each in loaded] == [[b"%d" % number] for number in reversed(range(200))]


async def test_a_batch_with_every_kind_of_refusal(store: Store) -> None:
    lost, ended, going = [await start(store, f"order-{number}") for number in (1, 2, 3)]
    await send(store, signal("order-2"))
    stale = make_row("order-1", key=lost.key, generation=4, last_sequence=2)
    batch = Batch(
        [follow(stale, b"x"), end(ended), follow(going, b"three"), new(make_row("order-1"), b"x"), new(make_row("n"))],
        [signal("order-3"), signal("n"), signal("missing")],
    )
    result = await store.commit(batch)
    assert result.changes == [
        CommitOutcome.CONFLICT,
        CommitOutcome.INBOX_NOT_EMPTY,
        CommitOutcome.COMMITTED,
        CommitOutcome.ID_EXISTS,
        CommitOutcome.COMMITTED,
    ]
    assert result.messages == [CommitOutcome.COMMITTED, CommitOutcome.COMMITTED, CommitOutcome.NOT_FOUND]
    assert result.message_keys == [going.key, batch.changes[4].row.key, 0]
