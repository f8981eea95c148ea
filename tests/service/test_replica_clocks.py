"""A replica whose clock is wrong follows the clock of the database."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from mendflow_server.app import Parts
from mendflow_server.runtime.clock import SystemClock
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Postgres


@pytest.mark.parametrize("wrong", [-3_600.0, 3_600.0])
async def test_the_times_of_events_are_those_of_the_database(tmp_path: Path, postgres: Postgres, wrong: float) -> None:
    parts = Parts(clock=partial(SystemClock, wall=lambda: time.time() + wrong))
    url = postgres.url(await postgres.new_schema())
    async with serving(tmp_path, parts=parts, store=url) as server:
        assert await until(lambda: server.app.supervisor.recovered, 10)
        assert abs(server.app.clock.time() - time.time()) < 1
        await server.client.run("echo", "x", id="w")
        events = [event async for event in server.client.handle("w").events()]
        assert all(abs(event.time.ToMicroseconds() / 1e6 - time.time()) < 2 for event in events)


async def test_a_clock_that_is_set_while_the_server_runs_follows_without_going_back() -> None:
    host = [1_000.0]
    clock = SystemClock(wall=lambda: host[0], monotonic=lambda: 0.0)
    clock.follow(5.0, at_start=True)
    assert clock.time() == 1_005.0
    clock.follow(-5.0, at_start=False)
    assert clock.time() == 1_005.0
    host[0] = 1_011.0
    assert clock.time() == 1_006.0
