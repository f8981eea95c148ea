"""The health monitor: readiness ends at once and returns only after several good probes in a row."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from mendflow_server.health.monitor import HealthInputs, HealthMonitor
from mendflow_server.health.servicer import LIVENESS
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Reply = health_pb2.HealthCheckResponse
GOOD = HealthInputs(
    oldest_uncommitted_age=None,
    last_commit_age=0.0,
    last_tick_age=0.0,
    recovered=True,
    draining=False,
    store_failure="",
)
STORE_AWAY = dataclasses.replace(GOOD, oldest_uncommitted_age=6.0, store_failure="the disk is full")


class MovedClock(SystemClock):
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(wall=lambda: self.now, monotonic=lambda: self.now)


class Server:
    """A monitor whose signals the test sets."""

    def __init__(self, **overrides: Any) -> None:
        self.clock = MovedClock()
        self.signals = GOOD
        self.monitor = HealthMonitor(self.clock, load_settings(**overrides), lambda: self.signals)

    def probe(self, signals: HealthInputs, loop_lag: float = 0.0) -> bool:
        self.signals = signals
        self.monitor.probe(loop_lag)
        return self.monitor.ready.ok


def test_before_the_first_probe_it_is_not_ready_and_says_why() -> None:
    monitor = Server().monitor
    assert not monitor.ready.ok
    assert monitor.ready.reasons


def test_the_first_good_probe_makes_it_ready() -> None:
    server = Server()
    assert not server.probe(dataclasses.replace(GOOD, recovered=False))
    assert server.probe(GOOD)


@given(
    good_probes=st.integers(1, 4),
    probes=st.lists(st.sampled_from([(GOOD, 0.0), (STORE_AWAY, 0.0), (GOOD, 3.0)]), max_size=30),
)
def test_it_becomes_ready_again_only_after_enough_good_probes_in_a_row(
    good_probes: int, probes: list[tuple[HealthInputs, float]]
) -> None:
    server = Server(good_probes=good_probes)
    assert server.probe(GOOD)
    run = good_probes
    for signals, lag in probes:
        run = run + 1 if signals is GOOD and not lag else 0
        assert server.probe(signals, lag) is (run >= good_probes)
        assert bool(server.monitor.ready.reasons) is not server.monitor.ready.ok, "no answer without its reason"
        assert server.monitor.alive.ok, "an unavailable store is no reason to restart the process"


def test_while_it_is_on_probation_the_last_reason_stays() -> None:
    server = Server(good_probes=2)
    server.probe(GOOD)
    server.probe(STORE_AWAY)
    assert not server.probe(GOOD)
    assert "the disk is full" in server.monitor.ready.reasons


def test_the_store_is_not_blamed_while_it_commits() -> None:
    server = Server()
    assert server.probe(dataclasses.replace(GOOD, store_failure="one write had to be repeated"))


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0)


async def test_a_loop_that_stood_still_is_noticed_when_it_turns_again() -> None:
    server = Server()
    # While it is not ready, it probes often, so the test waits only briefly.
    server.signals = dataclasses.replace(GOOD, recovered=False)
    running = asyncio.create_task(server.monitor.run())
    try:
        await until(
            lambda: bool(server.monitor.ready.reasons) and "recovery in progress" in server.monitor.ready.reasons[0]
        )
        server.clock.now += 40.0
        await until(lambda: not server.monitor.alive.ok)
        assert any("event loop" in reason for reason in server.monitor.ready.reasons)
        await until(lambda: server.monitor.alive.ok)
    finally:
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, Any]]:
    server = Server()
    listening = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(server.monitor.servicer, listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield server, health_pb2_grpc.HealthStub(channel)
    await listening.stop(0)


async def test_over_grpc_before_the_first_probe_nothing_serves(served: tuple[Server, Any]) -> None:
    _, stub = served
    for name in ("", "mendflow.v1.WorkflowService", "mendflow.v1.OperatorService", LIVENESS):
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == Reply.NOT_SERVING


async def test_over_grpc_ready_and_alive_differ(served: tuple[Server, Any]) -> None:
    server, stub = served
    server.probe(STORE_AWAY)
    for name in ("", "mendflow.v1.WorkflowService", "mendflow.v1.OperatorService"):
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == Reply.NOT_SERVING
    assert (await stub.Check(health_pb2.HealthCheckRequest(service=LIVENESS))).status == Reply.SERVING
    server.probe(dataclasses.replace(GOOD, last_tick_age=31.0))
    assert (await stub.Check(health_pb2.HealthCheckRequest(service=LIVENESS))).status == Reply.NOT_SERVING


async def test_a_watch_reports_each_change_once(served: tuple[Server, Any]) -> None:
    server, stub = served
    async with asyncio.timeout(30):
        ready = stub.Watch(health_pb2.HealthCheckRequest())
        alive = stub.Watch(health_pb2.HealthCheckRequest(service=LIVENESS))
        assert (await ready.read()).status == Reply.NOT_SERVING
        assert (await alive.read()).status == Reply.NOT_SERVING
        statuses = []
        for signals in (GOOD, GOOD, STORE_AWAY, STORE_AWAY, GOOD, GOOD):
            before = server.monitor.ready.ok
            if server.probe(signals) != before:
                statuses.append((await ready.read()).status)
        assert statuses == [Reply.SERVING, Reply.NOT_SERVING, Reply.SERVING]
        assert (await alive.read()).status == Reply.SERVING
        pending = asyncio.ensure_future(alive.read())
        server.probe(dataclasses.replace(GOOD, last_tick_age=31.0))
        assert (await pending).status == Reply.NOT_SERVING, "the first that it hears since SERVING"
        ready.cancel()
        alive.cancel()


async def test_watchers_that_disconnect_do_not_affect_the_others(served: tuple[Server, Any]) -> None:
    server, stub = served
    async with asyncio.timeout(30):
        calls = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(4)]
        for call in calls:
            assert (await call.read()).status == Reply.NOT_SERVING
        for call in calls[::2]:
            call.cancel()
        server.probe(GOOD)
        for call in calls[1::2]:
            assert (await call.read()).status == Reply.SERVING
            call.cancel()
