"""A client that knows several replicas leaves one that crashes or does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from tests.support.servers import ServerProcess, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof


@pytest.fixture
def servers(tmp_path: Path, postgres: Postgres) -> Iterator[list[ServerProcess]]:
    """Two replicas of one store."""
    url = postgres.url(postgres.schema())
    started = []
    try:
        for name in "ab":
            (tmp_path / name).mkdir()
            started.append(ServerProcess(tmp_path / name, url=url))
            started[-1].start()
        yield started
    finally:
        for server in started:
            if server.process is not None:
                server.process.send_signal(signal.SIGCONT)
            server.kill()


def target_of(servers: list[ServerProcess]) -> str:
    return "ipv4:" + ",".join(server.grpc_address for server in servers)


async def connected(client: Client, count: int) -> set[str]:
    """Return the replica ids when the client is connected to so many replicas."""
    seen: set[str] = set()
    async with asyncio.timeout(10):
        while len(seen) < count:
            seen.add((await client.server_info()).replica_id)
    return seen


async def test_calls_take_turns_and_leave_a_replica_that_crashes(servers: list[ServerProcess]) -> None:
    async with Client(target_of(servers)) as client:
        seen = await connected(client, 2)
        servers[0].kill()
        began = time.monotonic()
        left = {(await client.server_info()).replica_id for _ in range(10)}
        assert len(left) == 1
        assert left < seen
        assert time.monotonic() - began < 5


async def test_a_watch_leaves_a_replica_that_does_not_answer(servers: list[ServerProcess]) -> None:
    async with Client(target_of(servers), timeout=2) as client, Client(servers[1].grpc_address) as second:
        await second.start("wait_for", "x", id="waits")
        await connected(client, 2)
        moved: list[float] = []

        def note(up: bool, why: str) -> None:  # noqa: FBT001 - the client's callback
            if up:
                moved.append(time.monotonic())

        async def watch(seen: list[int]) -> None:
            async for event in client.handle("waits").watch(on_connection=note):
                seen.append(event.sequence)  # noqa: PERF401 - the test looks at it meanwhile

        # They take turns on the replicas as well.
        seen: list[list[int]] = [[] for _ in range(4)]
        watches = [asyncio.create_task(watch(each)) for each in seen]
        assert await until(lambda: all(seen), 10)
        assert servers[0].process is not None
        os.kill(servers[0].process.pid, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(4):
            await client.handle("waits").get()
        assert await until(lambda: len(moved) == 2, 30), moved
        assert moved[1] - began < 20
        await second.handle("waits").signal("go", "on")
        await asyncio.wait_for(asyncio.gather(*watches), 20)
        history = [event.sequence async for event in second.handle("waits").events()]
        assert seen == [history] * 4
