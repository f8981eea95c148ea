"""Threads that hang: their attempts are closed, other steps get their slots, and everybody sees what waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import RetryPolicy, attempt, step, workflow
from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.servers import http_health, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Server

#: Set: the threads that hang end.
LET_GO = threading.Event()
#: What ran, as "step attempt".
RAN: list[str] = []
AT_ONCE = RetryPolicy(initial_interval=0.01, maximum_interval=0.01)


@step(timeout=0.05, retry=AT_ONCE)
def hangs_once() -> int:
    """Hang in the first attempt until the test ends it."""
    number = attempt().number
    RAN.append(f"hangs_once {number}")
    if number == 1:
        LET_GO.wait(60)
    return number


@step(timeout=0.05, retry=AT_ONCE)
async def swallows_its_cancel() -> int:
    """Ignore every cancel in the first attempt until the test ends it."""
    number = attempt().number
    RAN.append(f"swallows_its_cancel {number}")
    while number == 1 and not LET_GO.is_set():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return number


@step
def works() -> str:
    """Return at once."""
    return "done"


@step
async def works_on_the_loop() -> str:
    """Return at once."""
    return "done"


@workflow
async def hanging() -> int:
    """Run the step that hangs."""
    return await hangs_once()


@workflow
async def swallowing() -> int:
    """Run the step that cannot be cancelled."""
    return await swallows_its_cancel()


@workflow
async def working() -> str:
    """Run the step on a thread."""
    return await works()


@workflow
async def working_on_the_loop() -> str:
    """Run the step on the loop."""
    return await works_on_the_loop()


MINE = {each.name: each for each in (hanging, swallowing, working, working_on_the_loop)}

KINDS = [
    (hanging, working, "MENDFLOW_THREAD_SLOTS"),
    (swallowing, working_on_the_loop, "MENDFLOW_ATTEMPT_SLOTS"),
]


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    RAN.clear()
    LET_GO.clear()
    yield
    LET_GO.set()


async def health(server: Server) -> tuple[int, dict[str, Any]]:
    """Return the status and body of the server's HTTP health."""
    return await asyncio.to_thread(http_health, f"127.0.0.1:{server.app.http_port}")


async def waits_for_code(server: Server, workflow_id: str) -> workflow_pb2.Workflow:
    """Wait until the workflow waits for the code of an attempt, and return it."""
    while True:  # The test's timeout ends it.
        found = await server.client.get(workflow_id)
        if found.reason == event_pb2.STATE_REASON_THREAD:
            return found
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(("hung", "other", "_setting"), KINDS)
async def test_hung_attempts_leave_as_many_slots_as_there_are_and_their_steps_wait(
    tmp_path: Path, hung: Any, other: Any, _setting: str
) -> None:
    limits = {"thread_slots": 2, "attempt_slots": 2, "cancel_grace": 0.05}
    async with serving(tmp_path, definitions=MINE, **limits) as server:
        for number in range(2):
            await server.client.start(hung, id=f"hung-{number}")
        for number in range(2):
            waiting = await waits_for_code(server, f"hung-{number}")
            assert waiting.state == workflow_pb2.WORKFLOW_STATE_WAITING
            assert "attempt 1" in waiting.explanation
        for number in range(4):
            assert await server.client.run(other, id=f"other-{number}") == "done"
        assert sum(ran.endswith(" 2") for ran in RAN) == 0, "no attempt may start while the code of the last one runs"
        assert await until(lambda: server.app.health.ready.warnings)
        status, body = await health(server)
        LET_GO.set()
        for number in range(2):
            assert await server.client.handle(f"hung-{number}", result_type=int).result() == 2
        assert (status, body["status"]) == (200, "SERVING")
        assert body["warnings"] == ["closed attempts whose code still runs: 2"]
        alerts = [event async for event in server.client.handle("hung-0").events() if event.HasField("alert_raised")]
        assert [each.alert_raised.name for each in alerts] == ["attempt_outlasted"]


@pytest.mark.parametrize(("hung", "other", "setting"), KINDS)
async def test_a_server_whose_slots_all_hang_is_not_ready_until_one_ends(
    tmp_path: Path, hung: Any, other: Any, setting: str
) -> None:
    limits = {"thread_slots": 1, "attempt_slots": 1, "cancel_grace": 0.05, "good_probes": 1}
    async with serving(tmp_path, definitions=MINE, **limits) as server:
        for number in range(2):
            await server.client.start(hung, id=f"hung-{number}")
            await waits_for_code(server, f"hung-{number}")
        await server.client.start(other, id="other")
        assert await until(lambda: not server.app.health.ready.ok)
        status, body = await health(server)
        assert status == 503
        [reason] = body["reasons"]
        assert reason.startswith(f"the code of closed attempts holds all slots and as many again ({setting}=1); fix")
        assert (await server.client.get("other")).reason == event_pb2.STATE_REASON_SLOT
        LET_GO.set()
        assert await server.client.handle("other", result_type=str).result() == "done"
        assert await until(lambda: server.app.health.ready.ok)


async def test_a_workflow_that_is_loaded_again_still_waits_for_the_code_of_its_attempt(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        await server.client.start(hanging, id="hung")
        await waits_for_code(server, "hung")
        # As another driver does: the server's next change is refused, and it reads the workflow anew.
        with contextlib.closing(sqlite3.connect(tmp_path / "mendflow.db", isolation_level=None)) as database:
            database.execute("update workflows set generation = generation + 1")
        await server.client.signal("hung", "any")
        while (await waits_for_code(server, "hung")).generation != 2:
            await asyncio.sleep(0.005)
        assert RAN == ["hangs_once 1"]
        LET_GO.set()
        assert await server.client.handle("hung", result_type=int).result() == 2


async def test_a_drain_does_not_wait_for_code_that_cannot_be_stopped(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, drain_timeout=60) as server:
        await server.client.start(hanging, id="hung")
        await waits_for_code(server, "hung")
        await asyncio.wait_for(server.app.drain(), 10)
