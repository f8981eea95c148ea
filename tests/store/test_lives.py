"""Lives, the crash budget's ledger, and what a restart finds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.errors import StoreError, StoreUnavailable
from mendflow_server.store.records import Heartbeat, Life, Suspect
from tests.store.builders import REPLICA, commit, follow, send, signal, start

if TYPE_CHECKING:
    from mendflow_server.store.interface import Store
    from tests.store.conftest import Backend


def life(replica_id: str, time: int) -> Life:
    return Life(replica_id, time, time, drained=False)


async def test_each_life_returns_the_one_before_it(store: Store) -> None:
    assert await store.last_beat() == 0
    assert await store.begin_life(life("a", 500)) is None
    assert await store.last_beat() == 500
    await store.beat("a", 600)
    assert await store.last_beat() == 600
    # A clock that was set back changes nothing: the newest life is the one that began last.
    assert await store.begin_life(life("b", 100)) == Life("a", 500, 600, drained=False)
    await store.beat("b", 150, drained=True)
    await store.beat("b", 160)
    assert await store.last_beat() == 160
    assert await store.begin_life(life("c", 200)) == Life("b", 100, 160, drained=True)


async def test_a_life_may_begin_twice_when_the_reply_to_the_first_was_lost(store: Store) -> None:
    await store.begin_life(life("a", 500))
    for _ in range(2):
        assert await store.begin_life(life("b", 600)) == life("a", 500)
    await store.beat("b", 700)
    assert await store.begin_life(life("c", 800)) == Life("b", 600, 700, drained=False)


async def test_old_lives_are_removed(store: Store) -> None:
    for number in range(30):
        previous = await store.begin_life(life(f"replica-{number}", number))
        assert previous == (life(f"replica-{number - 1}", number - 1) if number else None)
    with pytest.raises(StoreError):
        await store.beat("replica-0", 99)
    await store.beat("replica-29", 99)


async def test_the_ledger_is_replaced_as_a_whole(store: Store) -> None:
    assert await store.suspects() == []
    first = [Suspect(1, "", 2, 0, held=False), Suspect(1, "charge", 3, 1, held=True)]
    await store.write_suspects(first)
    assert await store.suspects() == first
    await store.write_suspects([Suspect(2, "ship#2", 1, 1, held=True)])
    assert await store.suspects() == [Suspect(2, "ship#2", 1, 1, held=True)]
    await store.write_suspects([])
    assert await store.suspects() == []


async def test_a_restart_finds_everything(backend: Backend) -> None:
    before = backend.make()
    await before.open()
    row = await start(before, labels={"shop": "1"}, wake_time=50)
    await commit(before, follow(row, b"three", heartbeats=(Heartbeat("charge", 1, b"x"),)))
    await send(before, signal(request_id="a"))
    await before.begin_life(life("a", 1))
    await before.close()

    after = backend.make()
    await after.open()
    (loaded,) = await after.load([row.key])
    assert loaded.row == row
    assert loaded.events == [b"one", b"two", b"three"]
    assert [message.request_id for message in loaded.inbox] == ["a"]
    assert loaded.heartbeats == [Heartbeat("charge", 1, b"x")]
    assert (await start(after, "order-2")).key > row.key
    assert await after.begin_life(life(REPLICA, 2)) == life("a", 1)
    assert await after.due(50, limit=10) == [(50, row.key)]
    await after.close()


async def test_close_commits_what_was_submitted(backend: Backend) -> None:
    store = backend.make()
    await store.open()
    pending = [start(store, f"order-{number}") for number in range(20)]
    tasks = [asyncio.ensure_future(each) for each in pending]
    await asyncio.sleep(0)
    await store.close()
    rows = await asyncio.gather(*tasks)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.find(["order-1"])
    again = backend.make()
    await again.open()
    assert [loaded.row for loaded in await again.load([row.key for row in rows])] == rows
    await again.close()
