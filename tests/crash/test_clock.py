"""A wall clock that jumps by an hour either way: what is due comes, nothing comes twice, health stays."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from mendflow.v1 import workflow_pb2
from mendflow_server.app import App
from mendflow_server.clock import SystemClock
from tests.conftest import DEFINITIONS, settings_for
from tests.promises import Evidence, broken, read_store

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3_600.0


class Jumping(SystemClock):
    """The host's clocks, with a wall clock that is wrong by so many seconds."""

    def __init__(self) -> None:
        self.wrong = 0.0

    def time(self) -> float:
        return time.time() + self.wrong


async def asleep(client: Client, workflow_id: str) -> None:
    """Wait until it sleeps."""
    while (await client.get(workflow_id)).state != workflow_pb2.WORKFLOW_STATE_WAITING:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_clock_that_jumps_loses_nothing(tmp_path: Path, jump: float) -> None:
    clock = Jumping()
    async with App(settings_for(tmp_path, evict_after=0.5), DEFINITIONS, clock=clock) as app:
        async with Client(f"127.0.0.1:{app.grpc_port}") as client:
            due = await client.start("sleeper", 0.5 * HOUR, id="due")
            held = await client.start("holds", 1.0, id="held")
            retried = await client.start("retried", 2, id="retried")
            await asleep(client, "due")
            clock.wrong = jump
            # By the monotonic clock: an attempt's code and its timeout do not see the jump.
            assert await held.result() == "held"
            assert isinstance(await client.run("three", "x"), str)
            if jump < 0:
                # What was due at a time that is now further off waits for it; an operator's clock comes back.
                clock.wrong = HOUR
            assert await due.result() == "awake"
            assert await retried.result() == 3
            assert not app.committer.failing
            listed = [workflow.workflow_id async for workflow in client.list()]
            assert len(listed) == len(set(listed)) == 4
        await app.drain()
    assert not broken(Evidence(read_store(tmp_path / "mendflow.db")))


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_restart_under_another_clock_goes_on(tmp_path: Path, jump: float) -> None:
    clock = Jumping()
    async with (
        App(settings_for(tmp_path), DEFINITIONS, clock=clock) as app,
        Client(f"127.0.0.1:{app.grpc_port}") as client,
    ):
        await client.start("wait_for", "x", id="waits")
        await asleep(client, "waits")
    clock.wrong = jump
    async with App(settings_for(tmp_path), DEFINITIONS, clock=clock) as app:
        async with Client(f"127.0.0.1:{app.grpc_port}") as client:
            await client.signal("waits", "go", "on")
            assert await client.handle("waits").result() == "x: on"
        await app.drain()
    assert not broken(Evidence(read_store(tmp_path / "mendflow.db")))
