"""A replica that joins, the lease of another one that has run out, and one that is busier than the others."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from mendflow_server.app import Parts
from mendflow_server.store.factory import open_store
from mendflow_server.supervisor.replicas import Replicas
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Postgres

#: The number of the other replica, whose process holds its lock.
NUMBER = 900
LOCK = "SELECT pg_advisory_lock((SELECT oid::bigint FROM pg_namespace WHERE nspname = $1) * 4294967296 + $2)"


@pytest.mark.parametrize(("grace", "is_judged"), [(3_600.0, False), (0.0, True)])
async def test_one_that_joins_gives_the_others_time_to_renew_their_leases(
    tmp_path: Path, postgres: Postgres, grace: float, *, is_judged: bool
) -> None:
    schema = await postgres.new_schema()
    store = open_store(postgres.url(schema))
    await store.open()
    await store.close()
    other = await asyncpg.connect(postgres.url(schema))
    await other.execute(LOCK, schema, NUMBER)
    await other.execute(
        "INSERT INTO replicas (id, replica_id, start_time, beat_time, drained, lease_end) OVERRIDING SYSTEM VALUE "
        f"VALUES ({NUMBER}, 'other-1-x', 1, 1, false, 1)"
    )
    parts = Parts(replicas=partial(Replicas, grace=grace))
    async with serving(tmp_path, parts=parts, store=postgres.url(schema)) as server:
        # It has looked at the other one before it served.
        assert server.app.supervisor.recovered
        found = await other.fetchval("SELECT ended FROM replicas WHERE replica_id = 'other-1-x'")
        assert found is is_judged
    await other.close()


@pytest.mark.proof
async def test_a_busy_replica_gives_up_what_falls_due_to_an_idle_one(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url(await postgres.new_schema())
    quick = {"store": url, "evict_after": 0.2, "probe_interval": 0.2, "attempt_slots": 1_000}
    async with serving(tmp_path, **quick) as busy, serving(tmp_path, **quick) as idle:
        sharing = busy.app.engine.sharing
        assert sharing is not None
        assert await until(lambda: sharing.roster.others, 10)
        async with asyncio.TaskGroup() as starting:
            for number in range(600):
                starting.create_task(busy.client.start("holds", 60.0, id=f"holds-{number}"))
        assert await until(lambda: any(peer.load >= 600 for peer in sharing.roster.peers), 20)
        names = [f"sleeps-{number}" for number in range(40)]
        for name in names:
            await busy.client.start("sleeper", 4.0, id=name)
        for name in names:
            await asyncio.wait_for(idle.client.handle(name).result(), 30)
        rows = [await idle.app.engine.find(name) for name in names]
        assert {row.replica_id for row in rows} == {busy.app.replica_id, idle.app.replica_id}
