"""A watch and a result never continue with another workflow that gets the id after a delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client, wait_signal, workflow
from mendflow.errors import WorkflowNotFound
from mendflow.v1 import event_pb2, workflow_service_pb2
from tests.support.servers import free_port, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mendflow import WorkflowHandle

AWAITED = event_pb2.EVENT_KIND_SIGNAL_AWAITED


@workflow
async def waits(number: int) -> int:
    for _ in range(number):
        await wait_signal("go")
    return number


DEFINITIONS = {"waits": waits}


async def first_in(reader: AsyncIterator[event_pb2.Event], begun: asyncio.Event) -> None:
    async for _ in reader:
        begun.set()


async def result_of(handle: WorkflowHandle[int], begun: asyncio.Event, client: Client) -> int:
    """Return the result. ``begun`` is set when the wait for it is open."""
    call = client.caller.call

    async def noted(method: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, workflow_service_pb2.GetWorkflowRequest) and request.HasField("wait"):
            begun.set()
        return await call(method, request, **options)

    client.caller.call = noted  # type: ignore[method-assign] # to see the call
    return await handle.result()


READERS: dict[str, Callable[[WorkflowHandle[int], asyncio.Event, Client], Any]] = {
    "a watch": lambda handle, begun, _: first_in(handle.watch(), begun),
    "a watch from an event": lambda handle, begun, _: first_in(handle.watch(1), begun),
    "a watch of a kind": lambda handle, begun, _: first_in(handle.watch(kinds=[AWAITED]), begun),
    "a result": result_of,
}


@pytest.mark.parametrize("started", [False, True], ids=["by id", "from a start"])
@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
async def test_what_waits_over_a_delete_and_a_restart_raises(
    tmp_path: Path, read: Callable[..., Any], *, started: bool
) -> None:
    address = f"127.0.0.1:{free_port()}"
    begun = asyncio.Event()
    async with Client(address) as client:
        async with serving(tmp_path, definitions=DEFINITIONS, grpc_address=address):
            handle = await client.start(waits, 1, id="w")
            if not started:
                handle = client.handle("w", result_type=waits)
            reading = asyncio.ensure_future(read(handle, begun, client))
            await begun.wait()
        async with serving(tmp_path, definitions=DEFINITIONS) as hidden:
            await hidden.client.signal("w", "go")
            await hidden.client.handle("w").result()
            await hidden.client.delete("w")
            again = await hidden.client.start(waits, 2, id="w")
            await again.signal("go")
            await again.signal("go")
            assert await again.result() == 2
        async with serving(tmp_path, definitions=DEFINITIONS, grpc_address=address):
            with pytest.raises(WorkflowNotFound, match='"w" not found'):
                await asyncio.wait_for(reading, 20)
            assert await client.handle("w").result() == 2


async def test_a_watch_and_a_get_with_the_uid_of_the_workflow_are_served(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=DEFINITIONS) as server:
        handle = await server.client.start(waits, 0, id="w")
        assert await handle.result() == 0
        found = await handle.get()
        request = workflow_service_pb2.GetWorkflowRequest(workflow_id="w", uid=found.uid)
        assert (await server.client.stub.GetWorkflow(request)).workflow.output.json == "0"
        watch = workflow_service_pb2.WatchWorkflowRequest(workflow_id="w", uid=found.uid)
        frames = [frame async for frame in server.client.stub.WatchWorkflow(watch)]
        assert [event.sequence for frame in frames for event in frame.events] == [1, 2]
