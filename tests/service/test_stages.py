"""After a commit, all its workflows continue stage by stage, each as if it were alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mendflow import step, workflow
from mendflow.v1 import event_pb2, workflow_service_pb2
from mendflow_server.attempts.attempt_runner import AttemptRunner
from mendflow_server.execution.execution import Execution
from mendflow_server.runtime.clock import SystemClock
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.support.servers import Server

#: How far the tests have moved the server's clock, in seconds.
MOVED = [0.0]


@step
async def takes_an_hour(number: int) -> int:
    """Block the loop for an hour, by the server's clock."""
    MOVED[0] += 3600.0
    return number + 1


@workflow
async def hours(count: int) -> int:
    """Run this many such steps."""
    number = 0
    for _ in range(count):
        number = await takes_an_hour(number)
    return number


MINE = {hours.name: hours}
COUNT = 12


async def begin(server: Server, steps: int) -> None:
    """Start workflows in one batch, and wait until all have ended."""
    request = workflow_service_pb2.BatchStartWorkflowsRequest()
    for number in range(COUNT):
        start = request.requests.add(workflow_id=f"hours-{number}", workflow_type=hours.name)
        start.input.json = str(steps)
    reply = await server.stub.BatchStartWorkflows(request)
    assert all(outcome.response.started for outcome in reply.outcomes)
    assert await until(lambda: server.app.engine.workflows_in_memory == 0)


async def history(server: Server, number: int) -> list[event_pb2.Event]:
    """Return a workflow's events."""
    asked = workflow_service_pb2.ListEventsRequest(workflow_id=f"hours-{number}")
    return list((await server.stub.ListEvents(asked)).events)


async def test_an_attempt_ends_when_its_own_code_has_ended(tmp_path: Path) -> None:
    MOVED[0] = 0.0
    clock = SystemClock(wall=lambda: time.time() + MOVED[0])
    # A timeout that no attempt reaches, and a shutdown by the real clock.
    async with serving(tmp_path, definitions=MINE, clock=clock, attempt_timeout=1e6) as server:
        await begin(server, 1)
        ends = []
        for number in range(COUNT):
            kinds = {event.WhichOneof("detail"): event.time for event in await history(server, number)}
            ends.append(round((kinds["attempt_succeeded"].seconds - kinds["attempt_started"].seconds) / 3600))
        # One commit recorded their attempts, which then ran one after the other.
        assert sorted(ends) == list(range(1, COUNT + 1))


async def test_an_error_in_one_workflow_does_not_affect_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = {"hours-3": "ended_at_once", "hours-5": "launch", "hours-8": "flush"}
    met: list[str] = []

    def fails_once(name: str, whole: Any, who: Callable[..., Execution]) -> Any:
        def call(*arguments: Any) -> Any:
            row = who(*arguments).row
            if faulty.get(row.workflow_id) == name and row.last_sequence and row.workflow_id not in met:
                met.append(row.workflow_id)
                raise RuntimeError(name)
            return whole(*arguments)

        return call

    for name in ("ended_at_once", "flush"):
        monkeypatch.setattr(Execution, name, fails_once(name, getattr(Execution, name), lambda self, *_: self))
    launch = fails_once("launch", AttemptRunner.launch, lambda _self, _order, listener, _context, _record: listener)
    monkeypatch.setattr(AttemptRunner, "launch", launch)
    async with serving(tmp_path, definitions=MINE) as server:
        await begin(server, 3)
        for number in range(COUNT):
            await server.client.handle(f"hours-{number}").result(timeout=10)
        assert sorted(met) == sorted(faulty)
        for number in range(COUNT):
            events = await history(server, number)
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            assert events[-1].workflow_succeeded.output.json == "3"
            if f"hours-{number}" not in faulty:
                assert len(events) == 8, "nothing of it was done twice"
        assert server.app.services.attempts.task_slots.free == server.app.settings.attempt_slots
