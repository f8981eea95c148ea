"""Many workflows at once: a batch lets other starts pass, the queue for slots moves, and every workflow ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mendflow import attempt, step, workflow
from mendflow.v1 import workflow_pb2, workflow_service_pb2
from mendflow_server.api.workflow_service import _PORTION
from mendflow_server.store.committer import CAPACITY
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RAN: list[str] = []


@step
async def at_once(number: int) -> int:
    """End without suspending."""
    RAN.append(f"{attempt().workflow_id} {number}")
    return number + 1


@step
async def suspends(number: int) -> int:
    """Suspend once."""
    RAN.append(f"{attempt().workflow_id} {number}")
    await asyncio.sleep(0)
    return number + 1


@workflow
async def steps_at_once(count: int) -> int:
    """Run this many steps that end without suspending."""
    number = 0
    for _ in range(count):
        number = await at_once(number)
    return number


@workflow
async def suspending_steps(count: int) -> int:
    """Run this many steps that suspend."""
    number = 0
    for _ in range(count):
        number = await suspends(number)
    return number


MINE = {each.name: each for each in (steps_at_once, suspending_steps)}


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()


def batch(prefix: str, count: int, *, steps: int = 1) -> workflow_service_pb2.BatchStartWorkflowsRequest:
    """Return a batch of this many starts."""
    request = workflow_service_pb2.BatchStartWorkflowsRequest()
    for number in range(count):
        start = request.requests.add()
        start.workflow_id = f"{prefix}-{number}"
        start.workflow_type = steps_at_once.name
        start.input.json = str(steps)
    return request


class Held:
    """A store whose commits wait for a gate. It records the number of changes of each commit."""

    def __init__(self, app: Any) -> None:
        self.open = asyncio.Event()
        self.sizes: list[int] = []
        self.wanted: list[int] = []
        self._committer = app.committer
        self._commit = app.store.commit
        app.store.commit = self.commit

    async def commit(self, batch: Any) -> Any:
        """Commit once the gate is open."""
        await self.open.wait()
        self.sizes.append(len(batch.changes))
        self.wanted.append(len(self._committer._changes))  # noqa: SLF001 - no public attribute has it
        return await self._commit(batch)


async def test_a_large_batch_starts_a_portion_at_a_time(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        store = Held(server.app)
        store.open.set()
        reply = await server.stub.BatchStartWorkflows(batch("many", 1_000, steps=3))
        assert [outcome.response.workflow.workflow_id for outcome in reply.outcomes] == [
            f"many-{number}" for number in range(1_000)
        ]
        assert all(outcome.response.started for outcome in reply.outcomes)
        assert await until(lambda: server.app.engine.workflows_in_memory == 0)
        assert len(RAN) == 3_000
        assert sum(store.sizes) >= 4_000
        # In progress are at most CAPACITY workflows and the one portion that found room.
        assert (
            max(size + waiting for size, waiting in zip(store.sizes, store.wanted, strict=True)) <= CAPACITY + _PORTION
        )


async def test_a_start_passes_a_batch_that_waits(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        store = Held(server.app)
        many = asyncio.ensure_future(server.stub.BatchStartWorkflows(batch("many", 1_000)))
        assert await until(lambda: server.app.engine.workflows_in_memory > CAPACITY)
        assert server.app.engine.workflows_in_memory <= CAPACITY + 2 * _PORTION
        single = asyncio.ensure_future(server.client.start(steps_at_once, 1, id="single"))
        assert await until(lambda: "single" in [each.row.workflow_id for each in server.app.engine.cache])
        assert server.app.engine.workflows_in_memory < 1_000
        store.open.set()
        assert await (await single).result(timeout=5) == 1
        assert len((await many).outcomes) == 1_000


async def test_a_batch_does_not_wait_forever_for_a_stalled_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mendflow_server.store.committer.CAPACITY_TIMEOUT", 0.0)
    async with serving(tmp_path, definitions=MINE) as server:
        store = Held(server.app)
        many = asyncio.ensure_future(server.stub.BatchStartWorkflows(batch("many", 1_000)))
        assert await until(lambda: server.app.engine.workflows_in_memory == 1_000)
        store.open.set()
        assert all(outcome.response.started for outcome in (await many).outcomes)


async def test_a_batch_whose_caller_disconnects_leaves_whole_workflows(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        store = Held(server.app)
        many = server.stub.BatchStartWorkflows(batch("many", 1_000))
        assert await until(lambda: server.app.engine.workflows_in_memory > CAPACITY)
        many.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await many
        begun = server.app.engine.workflows_in_memory
        store.open.set()
        assert await until(lambda: server.app.engine.workflows_in_memory == 0)
        # Each started workflow has ended, and the others do not exist. One more portion may have found room.
        ended = len(RAN)
        assert begun <= ended <= begun + _PORTION
        again = await server.stub.BatchStartWorkflows(batch("many", 1_000))
        assert sum(outcome.response.started for outcome in again.outcomes) == 1_000 - ended
        assert await until(lambda: server.app.engine.workflows_in_memory == 0)
        assert len(RAN) == len(set(RAN)) == 1_000


@pytest.mark.parametrize("endless", [steps_at_once, suspending_steps])
async def test_a_workflow_gets_a_slot_though_another_never_rests(tmp_path: Path, endless: Any) -> None:
    async with serving(tmp_path, definitions=MINE, attempt_slots=1) as server:
        store = Held(server.app)
        busy = await _begun(server, endless, 2_000, "busy")
        others = [await _begun(server, steps_at_once, 2, f"other-{number}") for number in range(5)]
        store.open.set()
        for other in others:
            assert await (await other).result(timeout=5) == 2
        # The others ran during the busy workflow, not after it.
        assert sum(line.startswith("busy") for line in RAN) < 2_000
        await (await busy).terminate(reason="enough")
        assert await until(lambda: server.app.engine.workflows_in_memory == 0)
        assert server.app.services.attempts.task_slots.free == 1


async def _begun(server: Any, definition: Any, count: int, workflow_id: str) -> asyncio.Future[Any]:
    """Request a start and return once the workflow is in memory. The store may still hold its commit."""
    asked: asyncio.Future[Any] = asyncio.ensure_future(server.client.start(definition, count, id=workflow_id))
    assert await until(lambda: workflow_id in [each.row.workflow_id for each in server.app.engine.cache])
    return asked


async def test_many_workflows_share_few_slots(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, attempt_slots=3) as server:
        await server.stub.BatchStartWorkflows(batch("few", 200, steps=4))
        assert await until(lambda: server.app.engine.workflows_in_memory == 0)
        assert len(RAN) == len(set(RAN)) == 800
        assert server.app.services.attempts.task_slots.free == 3
        listed = await server.stub.ListWorkflows(workflow_service_pb2.ListWorkflowsRequest(page_size=1_000))
        assert {each.state for each in listed.workflows} == {workflow_pb2.WORKFLOW_STATE_SUCCEEDED}


async def test_a_slot_reserved_for_a_terminated_workflow_passes_to_the_next_in_line(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, attempt_slots=1) as server:
        busy = await server.client.start(suspending_steps, 100, id="busy")
        line = [await server.client.start(suspending_steps, 50, id=f"line-{number}") for number in range(20)]
        for handle in line[::2]:
            await handle.terminate(reason="no longer wanted")
        for handle in line[1::2]:
            assert await handle.result(timeout=10) == 50
        assert await busy.result(timeout=5) == 100
        assert server.app.services.attempts.task_slots.free == 1
