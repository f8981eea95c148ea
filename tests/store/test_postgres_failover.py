"""A primary with a streaming standby: the server moves to the promoted standby by itself, and loses no commit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.errors import StoreUnavailable
from mendflow_server.store.factory import open_store
from mendflow_server.store.records import CommitOutcome
from tests.store.builders import follow, make_row, new, start
from tests.store.committing import committing, submitted
from tests.support.postgres import Postgres, postgres_server
from tests.support.proxy import Proxy
from tests.support.servers import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow_server.store.interface import Store

pytestmark = pytest.mark.proof

STREAMING = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
QUICK = DatabaseAccess(connect_timeout=1.0, statement_timeout=0.5)


@pytest.fixture
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary whose commits wait for its standby, and that standby."""
    with postgres_server(fsync=True) as primary, postgres_server(fsync=True, standby_of=primary) as standby:
        asyncio.run(synchronous(primary))
        yield primary, standby


async def synchronous(primary: Postgres) -> None:
    """Make commits wait for the standby."""
    await primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    while [tuple(row) for row in await primary.fetch(STREAMING)] != [("sync",)]:
        await asyncio.sleep(0.05)


def url_of(*ports: int, options: str = "") -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"postgresql://postgres@{hosts}/postgres?{options}"


async def events(store: Store, key: int) -> list[bytes]:
    """Return a history, as soon as the store answers."""
    while True:
        try:
            (loaded,) = await store.load([key])
        except StoreUnavailable:
            await asyncio.sleep(0.05)
        else:
            return loaded.events


async def test_the_store_moves_to_the_promoted_standby(pair: tuple[Postgres, Postgres]) -> None:
    primary, standby = pair
    # The standby is first in the list: only a host that can be written is used.
    store = open_store(url_of(standby.port, primary.port), access=QUICK)
    await store.open()
    row = await start(store)
    async with committing(store) as committer:
        await asyncio.to_thread(primary.stop, "immediate")
        outcome = submitted(committer, follow(row, b"three"))
        assert await until(lambda: "no host of the store's URL that answers can be written" in committer.failure)
        assert not outcome.done()
        await asyncio.to_thread(standby.promote)
        assert await asyncio.wait_for(outcome, 30) is CommitOutcome.COMMITTED
    assert await events(store, row.key) == [b"one", b"two", b"three"]
    await store.close()


async def test_a_host_that_swallows_packets_does_not_keep_the_others_away(pair: tuple[Postgres, Postgres]) -> None:
    primary, standby = pair
    async with Proxy(primary.port) as proxy:
        store = open_store(url_of(proxy.port, standby.port), access=QUICK)
        await store.open()
        row = await start(store)
        proxy.stall()
        await asyncio.to_thread(standby.promote)
        async with committing(store) as committer:
            outcome = submitted(committer, follow(row, b"three"))
            assert await asyncio.wait_for(outcome, 30) is CommitOutcome.COMMITTED
        found = await standby.fetch("SELECT count(*) FROM events")
        assert [tuple(each) for each in found] == [(3,)]
        await store.close()


async def test_a_commit_that_no_standby_has_is_not_acknowledged_and_survives_the_failover(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    store = open_store(url_of(primary.port, standby.port), access=QUICK)
    await store.open()
    row = await start(store)
    async with committing(store) as committer:
        await asyncio.to_thread(standby.stop, "fast")
        outcome = submitted(committer, follow(row, b"three"))
        # The server gives up its wait, and PostgreSQL then shows the commit, which the standby does not have.
        while not await primary.fetch("SELECT 1 FROM events WHERE sequence = 3"):
            await asyncio.sleep(0.05)
        # It checks what became of the commit, and finds it, and must not be content with that.
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%emit_message%'"
        while not await primary.fetch(waits):
            assert not outcome.done()
            await asyncio.sleep(0.05)
        assert "synchronous_standby_names" in committer.failure
        await asyncio.to_thread(primary.stop, "immediate")
        assert not outcome.done()
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)
        assert not await standby.fetch("SELECT 1 FROM events WHERE sequence = 3")
        assert await asyncio.wait_for(outcome, 30) is CommitOutcome.COMMITTED
    assert await events(store, row.key) == [b"one", b"two", b"three"]
    assert [tuple(each) for each in await standby.fetch("SELECT count(*) FROM events")] == [(3,)]
    await store.close()


async def test_a_start_whose_commits_no_standby_takes_says_so(pair: tuple[Postgres, Postgres]) -> None:
    primary, standby = pair
    await asyncio.to_thread(standby.stop, "fast")
    with pytest.raises(StoreUnavailable, match="a standby of its synchronous_standby_names answers"):
        await open_store(url_of(primary.port), access=QUICK).open()


async def test_after_a_failover_that_lost_commits_no_key_is_given_twice() -> None:
    with postgres_server(fsync=True) as primary, postgres_server(fsync=True, standby_of=primary) as standby:
        store = open_store(url_of(primary.port, standby.port), access=QUICK)
        await store.open()
        while not await standby.fetch("SELECT 1 FROM pg_class WHERE relname = 'workflow_keys'"):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(standby.stop, "fast")
        lost = await start(store, "lost")
        await asyncio.to_thread(primary.stop, "immediate")
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)
        async with committing(store) as committer:
            row = make_row("new")
            assert await asyncio.wait_for(submitted(committer, new(row, b"one", b"two")), 30) is CommitOutcome.COMMITTED
            # The server still has the lost one in memory. With the key of another one it would write to its history.
            assert row.key > lost.key
            outcome = submitted(committer, follow(lost, b"three"))
            assert await asyncio.wait_for(outcome, 30) is CommitOutcome.CONFLICT
            # More than a block of keys, which another replica could have by now.
            for number in range(1_100):
                submitted(committer, new(make_row(f"more-{number}"), b"one"))
            last = make_row("last")
            assert await asyncio.wait_for(submitted(committer, new(last, b"one")), 30) is CommitOutcome.COMMITTED
        found = await standby.fetch("SELECT count(*), count(DISTINCT key) FROM workflows")
        assert [tuple(each) for each in found] == [(1_102, 1_102)]
        assert await events(store, row.key) == [b"one", b"two"]
        await store.close()
