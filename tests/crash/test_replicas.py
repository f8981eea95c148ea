"""Several replicas on one PostgreSQL: killed, stopped and drained ones lose nothing, and every verb works anywhere."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import Proxy
from tests.support.replicas import clients, logged, pid, replicas
from tests.support.servers import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof


async def test_the_work_of_a_killed_replica_continues_elsewhere(tmp_path: Path, postgres: Postgres) -> None:
    async with replicas(tmp_path, postgres, 3) as servers, clients(servers) as (first, second, third):
        names = [f"order{number}" for number in range(12)]
        for name in names:
            await first.start("everything", name, id=name)
        servers[0].kill()
        began = time.monotonic()
        for name in names:
            await second.handle(name).signal("go", "now")
        for name in names:
            seen = await asyncio.wait_for(third.handle(name).result(), 60)
            assert seen[-1].endswith("3]"), seen
        assert time.monotonic() - began < 30
        taken = logged(servers[1], "replica_taken_over") + logged(servers[2], "replica_taken_over")
        assert len(taken) == 1
        assert taken[0]["reason"] == "its process or its connection to the database ended"


async def test_a_stopped_replica_is_fenced_and_rejoins(tmp_path: Path, postgres: Postgres) -> None:
    async with replicas(tmp_path, postgres, 2) as servers, clients(servers) as (first, second):
        await first.start("wait_for", "x", id="waits")
        handle = await first.start("everything", "order", id="order")
        os.kill(pid(servers[0]), signal.SIGSTOP)
        try:
            assert await until(lambda: logged(servers[1], "replica_taken_over"), 20)
            (taken,) = logged(servers[1], "replica_taken_over")
            assert taken["reason"] == "its lease ran out"
            await second.handle("order").signal("go", "now")
            seen = await asyncio.wait_for(second.handle("order").result(), 30)
            assert seen[-1].endswith("3]"), seen
        finally:
            os.kill(pid(servers[0]), signal.SIGCONT)
        assert await until(lambda: logged(servers[0], "replica_fenced"), 20)
        assert await until(lambda: servers[0].health()[0] == 200, 20), servers[0].health()
        # It works again, under another id.
        assert (await asyncio.wait_for(handle.result(), 30)) == seen
        await first.handle("waits").signal("go", "on")
        assert await asyncio.wait_for(second.handle("waits").result(), 30)


async def test_every_verb_works_through_any_replica(tmp_path: Path, postgres: Postgres) -> None:
    async with replicas(tmp_path, postgres, 2) as servers, clients(servers) as (first, second):
        handle = await first.start("wait_for", "x", id="there")
        other = second.handle("there")
        watched: list[int] = []

        async def watch() -> None:
            async for event in other.watch():
                watched.append(event.sequence)  # noqa: PERF401 - the test looks at it meanwhile

        watching = asyncio.create_task(watch())
        assert (await other.get()).workflow_id == "there"
        assert [each.workflow_id async for each in second.list()] == ["there"]
        result = asyncio.create_task(other.result())
        assert await until(lambda: watched, 10)
        began = time.monotonic()
        assert await other.signal("go", "on")
        await asyncio.wait_for(result, 10)
        await asyncio.wait_for(watching, 10)
        assert time.monotonic() - began < 5
        assert watched == list(range(1, (await handle.get()).last_sequence + 1))
        for verb in ("cancel", "terminate"):
            await first.start("wait_for", "x", id=verb)
            ended = await getattr(second.handle(verb), verb)("over")
            assert ended.state != 0
            done = await second.handle(verb).get(wait=10)
            assert done.HasField("end_time")
        # A start through the other replica finds the first.
        again = await second.start("wait_for", "x", id="there")
        assert (await again.get()).uid == (await handle.get()).uid


async def test_a_draining_replica_hands_its_work_over_at_once(tmp_path: Path, postgres: Postgres) -> None:
    async with replicas(tmp_path, postgres, 2, MENDFLOW_LEASE="60", MENDFLOW_PROBE_INTERVAL="5") as servers:
        async with clients(servers) as (first, second):
            names = [f"order{number}" for number in range(10)]
            for name in names:
                await first.start("everything", name, id=name)
            ending = asyncio.create_task(asyncio.to_thread(servers[0].terminate))
            for name in names:
                await second.handle(name).signal("go", "now")
            for name in names:
                assert (await asyncio.wait_for(second.handle(name).result(), 20))[-1].endswith("3]")
            assert await ending == 0
        assert not logged(servers[1], "replica_taken_over")


async def test_workflows_that_wait_for_a_slot_continue_after_a_renewed_lease(
    tmp_path: Path, postgres: Postgres
) -> None:
    async with (
        Proxy(postgres.port) as proxy,
        replicas(tmp_path, postgres, 2, MENDFLOW_ATTEMPT_SLOTS="1", port=proxy.port) as servers,
        clients(servers) as (first, _),
    ):
        assert await until(lambda: logged(servers[0], "replica_seen"), 10)
        names = [f"order{number}" for number in range(5)]
        for name in names:
            await first.start("holds", 1.0, id=name)
        os.kill(pid(servers[1]), signal.SIGSTOP)
        proxy.stall()
        assert await until(lambda: logged(servers[0], "lease_lost"), 20)
        proxy.flow()
        for name in names:
            assert await asyncio.wait_for(first.handle(name).result(), 15) == "held"
        assert logged(servers[0], "lease_renewed")
