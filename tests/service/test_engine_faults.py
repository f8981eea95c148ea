"""Internal errors of the engine: the second one in a row pauses the workflow, and its neighbours continue.

No known input makes the engine fail. So these tests give the engine an observer that fails for one workflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import attempt, gather, sleep, step, wait_signal, workflow
from mendflow.cli.event_text import describe_event
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.app import Parts
from mendflow_server.execution.execution import Execution
from mendflow_server.telemetry import build_observer
from tests.support.deploying import wait_event
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.servers import Server

PAUSED, SUCCEEDED = workflow_pb2.WORKFLOW_STATE_PAUSED, workflow_pb2.WORKFLOW_STATE_SUCCEEDED
RAN: list[str] = []


@step
async def first(name: str) -> str:
    """Take no time."""
    RAN.append("first")
    return name


@step
async def holds(seconds: float) -> str:
    """Run for this many seconds."""
    RAN.append("holds")
    await asyncio.sleep(seconds)
    return "held"


@workflow
async def two_steps() -> str:
    """Call one step after another."""
    await first("first")
    await sleep(0.01)
    return await holds(0.01)


@workflow
async def waits_beside_a_step() -> Any:
    """Have an attempt in progress while the workflow takes a signal."""
    RAN.append("code")
    await first("first")
    data = await wait_signal("go")
    return data, await holds(0.01)


@step
def on_thread(seconds: float) -> int:
    """Hold a thread, and record when the attempt begins and ends."""
    RAN.append("begin")
    time.sleep(seconds)
    RAN.append("end")
    return attempt().number


@workflow
async def thread_beside_a_step() -> list[Any]:
    """Have a thread in progress while another step starts."""
    return list(await gather(on_thread(1.5), first("first")))


@workflow
async def cleans_up() -> None:
    """Call a step when it is cancelled."""
    try:
        await sleep(600)
    finally:
        await first("clean-up")


MINE = {each.name: each for each in (two_steps, waits_beside_a_step, thread_beside_a_step, cleans_up)}


class Failing:
    """An observer that fails for the workflow "subject", in one of its methods, as often as the test sets."""

    def __init__(self, spans: Any) -> None:
        self._observer = build_observer(spans)
        self.method = self.step_key = ""
        self.times = self.failed = 0

    def fail(self, method: str, step_key: str, times: int) -> None:
        """Fail in this method, for one step or for all."""
        self.method, self.step_key, self.times, self.failed = method, step_key, times, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._observer, name)
        if name != self.method:
            return method

        def failing(row: Any, *arguments: Any) -> Any:
            concerned = row.workflow_id == "subject" and (not self.step_key or self.step_key in arguments)
            if concerned and self.failed < self.times:
                self.failed += 1
                raise KeyError("inside the engine")
            return method(row, *arguments)

        return failing


OBSERVER: Any = Failing
PARTS = Parts(observer=OBSERVER)


@contextlib.contextmanager
def failing(server: Server, method: str, step_key: str = "") -> Iterator[Failing]:
    """Make the engine fail for the workflow "subject"."""
    observer: Any = server.app.services.observer
    observer.fail(method, step_key, 10_000)
    try:
        yield observer
    finally:
        observer.fail("", "", 0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    RAN.clear()
    async with serving(tmp_path, definitions=MINE, parts=PARTS) as running:
        yield running


async def in_state(server: Server, state: int, workflow_id: str = "subject") -> workflow_pb2.Workflow:
    """Wait until the workflow is in that state."""
    now: list[workflow_pb2.Workflow] = [await server.client.get(workflow_id)]
    for _ in range(1000):
        if now[-1].state == state:
            return now[-1]
        await asyncio.sleep(0.01)
        now.append(await server.client.get(workflow_id))
    pytest.fail(f"{workflow_id} is {now[-1]}")


async def history(server: Server, workflow_id: str = "subject") -> list[event_pb2.Event]:
    return [event async for event in server.client.handle(workflow_id).events()]


def kinds(events: list[event_pb2.Event]) -> list[str]:
    return [event.WhichOneof("detail") or "" for event in events]


async def test_second_internal_error_without_progress_pauses_with_an_alert(server: Server) -> None:
    with failing(server, "attempt_context", "holds") as observer:
        handle = await server.client.start(two_steps, id="subject")
        paused = await in_state(server, PAUSED)
        assert observer.failed == 2
        assert paused.reason == event_pb2.STATE_REASON_ENGINE_FAULT
        assert "KeyError: 'inside the engine'" in paused.explanation
        events = await history(server)
        assert "workflow_paused_engine_fault" in [event.alert_raised.name for event in events]
        assert RAN == ["first"], "what was recorded did not run again"
    await server.client.resume("subject")
    assert await handle.result() == "held"
    assert RAN == ["first", "holds"]


async def test_attempt_in_flight_at_an_internal_error_is_recorded_as_ended_by_it(server: Server) -> None:
    with failing(server, "attempt_context", "holds"):
        await server.client.start(two_steps, id="subject")
        await in_state(server, PAUSED)
        lost = [event.attempt_failed for event in await history(server) if event.HasField("attempt_failed")]
        assert [each.failure.kind for each in lost] == [failure_pb2.FAILURE_KIND_LOST] * 2
        assert all("an internal error of the server ended this attempt" in each.failure.message for each in lost)
        lines = [describe_event(event) for event in await history(server) if event.HasField("attempt_failed")]
        assert all("lost: an internal error of the server ended this attempt: KeyError" in line for line in lines)


async def test_single_internal_error_is_retried(server: Server) -> None:
    with failing(server, "attempt_context", "holds") as observer:
        observer.times = 1
        handle = await server.client.start(two_steps, id="subject")
        assert await handle.result() == "held"
        assert "workflow_paused" not in kinds(await history(server))


async def test_internal_errors_with_progress_between_them_do_not_pause(server: Server) -> None:
    with failing(server, "attempt_context") as observer:
        observer.times = 1
        handle = await server.client.start(waits_beside_a_step, id="subject")
        await wait_event(server.client, "subject", "signal_awaited")
        observer.times = 2
        await handle.signal("go", 1)
        assert await handle.result() == [1, "held"]
        assert observer.failed == 2
        assert "workflow_paused" not in kinds(await history(server))


async def test_attempt_after_an_internal_error_waits_for_the_thread_of_the_one_before(server: Server) -> None:
    with failing(server, "attempt_context", "gather[1]/first") as observer:
        observer.times = 1
        handle = await server.client.start(thread_beside_a_step, id="subject")
        assert await handle.result() == [2, "first"]
        assert observer.failed == 1
    assert [what for what in RAN if what != "first"] == ["begin", "end", "begin", "end"]


async def test_neighbours_of_a_workflow_with_internal_errors_continue(server: Server) -> None:
    with failing(server, "attempt_context"):
        await server.client.start(two_steps, id="subject")
        assert await server.client.run(two_steps, id="neighbour", timeout=10) == "held"
        await in_state(server, PAUSED)


async def test_resume_while_the_error_persists_pauses_again_and_is_bounded(server: Server) -> None:
    with failing(server, "attempt_context", "holds") as observer:
        handle = await server.client.start(two_steps, id="subject")
        await in_state(server, PAUSED)
        await server.client.resume("subject")
        assert await until(lambda: observer.failed == 4)
        await in_state(server, PAUSED)
        assert kinds(await history(server)).count("workflow_paused") == 2
    await server.client.resume("subject")
    assert await handle.result() == "held"


async def test_resume_that_itself_meets_the_error_pauses_again_and_is_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(server, "attempt_context", "holds"):
        handle = await server.client.start(two_steps, id="subject")
        await in_state(server, PAUSED)
    # Before the resume is committed: the replay of the recorded result fails.
    replays: list[None] = []
    decode = first.output_type.decode

    def failing_decode(payload: Any) -> Any:
        replays.append(None)
        raise LookupError("inside the engine")

    monkeypatch.setattr(first.output_type, "decode", failing_decode)
    await server.client.resume("subject")
    assert await until(lambda: len(replays) >= 2)
    await in_state(server, PAUSED)
    events = await history(server)
    assert kinds(events).count("workflow_resumed") == 1
    assert kinds(events)[-3:] == ["workflow_resumed", "workflow_paused", "alert_raised"]
    assert len(replays) == 2
    monkeypatch.setattr(first.output_type, "decode", decode)
    await server.client.resume("subject")
    assert await handle.result() == "held"


async def test_internal_error_after_each_commit_pauses(server: Server) -> None:
    with failing(server, "attempt_failed"), failing(server, "attempt_context", "holds") as observer:
        await server.client.start(two_steps, id="subject")
        paused = await in_state(server, PAUSED)
        assert paused.reason == event_pb2.STATE_REASON_ENGINE_FAULT
        failed = observer.failed
        await asyncio.sleep(0.5)
        assert observer.failed == failed


async def test_internal_error_in_a_cleanup_ends_the_workflow_cancelled(server: Server) -> None:
    handle = await server.client.start(cleans_up, id="subject")
    await in_state(server, workflow_pb2.WORKFLOW_STATE_WAITING)
    with failing(server, "attempt_context"):
        await handle.cancel()
        await in_state(server, workflow_pb2.WORKFLOW_STATE_CANCELLED)


async def test_pause_for_internal_errors_lasts_over_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, parts=PARTS) as server:
        with failing(server, "attempt_context", "holds"):
            await server.client.start(two_steps, id="subject")
            await in_state(server, PAUSED)
    async with serving(tmp_path, definitions=MINE, parts=PARTS) as server:
        paused = await server.client.get("subject")
        assert (paused.state, paused.reason) == (PAUSED, event_pb2.STATE_REASON_ENGINE_FAULT)
        await server.client.resume("subject")
        assert await server.client.handle("subject").result() == "held"


async def test_workflow_whose_pausing_fails_as_well_is_left_alone(server: Server) -> None:
    with failing(server, "attempt_context", "holds"):
        fails: list[None] = []

        def resume_from(self: Any, *arguments: Any, **options: Any) -> None:
            fails.append(None)
            raise LookupError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Execution, "resume_from", resume_from)
            await server.client.start(two_steps, id="subject")
            assert await until(lambda: bool(server.app.retrying.unreadable), 10)
        assert len(fails) <= 4
        assert await server.client.run(two_steps, id="neighbour", timeout=10) == "held"
