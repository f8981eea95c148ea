"""The faithful watch: every event once, in order, at bounded cost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2

from mendflow import Client
from mendflow.v1 import event_pb2, workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc
from mendflow_server.app import Parts
from mendflow_server.store.factory import open_store
from tests.support.servers import Server, ServerProcess, serving

if TYPE_CHECKING:
    from pathlib import Path


async def frames_of(
    server: Server, workflow_id: str, after: int = 0, kinds: tuple[event_pb2.EventKind.ValueType, ...] = ()
) -> list[Any]:
    request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id, after_sequence=after, kinds=kinds)
    return [frame async for frame in server.stub.WatchWorkflow(request)]


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


def reason_of(error: grpc.aio.AioRpcError) -> str:
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    reason: str = error_details_pb2.ErrorInfo.FromString(status.details[0].value).reason
    return reason


async def test_watch_from_any_sequence_gets_the_rest_once_and_in_order(server: Server) -> None:
    await server.client.run("three", "x", id="subject")
    whole = [event async for event in server.client.handle("subject").events()]
    for after in range(len(whole) + 1):
        frames = await frames_of(server, "subject", after)
        assert [event for frame in frames for event in frame.events] == whole[after:]
        if frames:
            assert frames[-1].last_sequence == whole[-1].sequence


async def test_a_filter_still_moves_the_cursor(server: Server) -> None:
    await server.client.run("three", "x", id="subject")
    frames = await frames_of(server, "subject", 0, (event_pb2.EVENT_KIND_ATTEMPT_SUCCEEDED,))
    events = [event for frame in frames for event in frame.events]
    assert [event.WhichOneof("detail") for event in events] == ["attempt_succeeded"] * 3
    assert frames[-1].last_sequence == 8


async def test_a_silent_workflow_sends_signs_of_life_with_the_cursor(tmp_path: Path) -> None:
    async with serving(tmp_path, watch_heartbeat=0.05) as server:
        await server.client.start("wait_for", "x", id="subject")
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id="subject")
        call = server.stub.WatchWorkflow(request)
        silent = 0
        async for frame in call:
            silent += not frame.events
            if silent:
                assert frame.last_sequence == 2
            if silent == 3:
                break
        call.cancel()


async def test_live_events_come_as_they_are_committed(server: Server) -> None:
    handle = await server.client.start("wait_for", "x", id="subject")
    seen: list[event_pb2.Event] = []
    async for event in handle.watch():
        seen.append(event)
        if event.HasField("signal_awaited"):
            await handle.signal("go", "now")
    assert [event.sequence for event in seen] == [1, 2, 3, 4, 5]
    assert seen == [event async for event in handle.events()]


async def test_watch_from_beyond_the_end_is_refused(server: Server) -> None:
    await server.client.run("echo", "x", id="subject")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await frames_of(server, "subject", 5)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert reason_of(caught.value) == "SEQUENCE_BEYOND_END"
    assert await frames_of(server, "subject", 4) == []


async def test_too_many_watches_are_refused_and_a_place_is_free_again(tmp_path: Path) -> None:
    async with serving(tmp_path, watch_limit=2) as server:
        await server.client.start("wait_for", "x", id="subject")
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id="subject")
        calls = [server.stub.WatchWorkflow(request) for _ in range(2)]
        for call in calls:
            await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stub.WatchWorkflow(request).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(caught.value) == "TOO_MANY_WATCHES"
        calls[0].cancel()
        while server.app.engine.watchers.open > 1:
            await asyncio.sleep(0.005)
        again = server.stub.WatchWorkflow(request)
        assert (await again.read()).last_sequence == 2
        again.cancel()
        calls[1].cancel()


async def test_a_drain_ends_watches_with_a_status_that_a_client_resumes_from(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.client.start("wait_for", "x", id="subject")
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id="subject")
        call = server.stub.WatchWorkflow(request)
        await call.read()
        draining = asyncio.create_task(server.app.drain())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_the_end(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(caught.value) == "DRAINING"
        await draining


async def test_a_large_history_comes_in_frames_that_a_default_client_can_read(server: Server) -> None:
    handle = await server.client.start("chatty", 900, id="subject")
    await handle.signal("go")
    await handle.result()
    frames = await frames_of(server, "subject")
    sequences = [event.sequence for frame in frames for event in frame.events]
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) == 1 + 3 + 900 * 2 + 1
    assert max(frame.ByteSize() for frame in frames) < 1 << 20
    assert len(frames) > 3


@pytest.mark.proof
async def test_a_thousand_watchers_of_whom_some_never_read_cost_bounded_memory(server_process: ServerProcess) -> None:
    steps, readers, stalled = 600, 60, 940
    async with Client(server_process.grpc_address) as client:
        handle = await client.start("chatty", steps, id="subject")
        channels = [
            grpc.aio.insecure_channel(server_process.grpc_address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(10)
        ]
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id="subject")
        stubs = [workflow_service_pb2_grpc.WorkflowServiceStub(channel) for channel in channels]
        never_read = [stubs[index % 9].WatchWorkflow(request) for index in range(stalled)]
        await asyncio.gather(*(call.initial_metadata() for call in never_read))
        process = psutil.Process(server_process.process.pid if server_process.process else 0)
        before = process.memory_info().rss

        async def read_all() -> list[int]:
            return [event.sequence async for frame in stubs[9].WatchWorkflow(request) for event in frame.events]

        reading = [asyncio.create_task(read_all()) for _ in range(readers)]
        await handle.signal("go")
        total = 1 + 3 + steps * 2 + 1
        for sequences in await asyncio.gather(*reading):
            assert sequences == list(range(1, total + 1))
        # Each of the stalled would have had some 600 KB: kept for all, 560 MB.
        assert process.memory_info().rss - before < 150 << 20
        for call in never_read:
            call.cancel()
        await asyncio.gather(*(channel.close() for channel in channels))


class Late:
    """A store whose later commits of a workflow return late: they are stored, and the engine does not know."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.may_return = asyncio.Event()
        self.is_late = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def commit(self, batch: Any) -> Any:
        """Commit, and return when the test says so."""
        result = await self.store.commit(batch)
        if self.is_late and any(change.guard is not None for change in batch.changes):
            await self.may_return.wait()
        return result


async def test_a_watch_may_resume_at_an_event_whose_commit_the_engine_does_not_know_of(tmp_path: Path) -> None:
    stores: list[Late] = []

    def open_late(url: str, **options: Any) -> Any:
        stores.append(Late(open_store(url, **options)))
        return stores[-1]

    async with serving(tmp_path, parts=Parts(open_store=open_late)) as server:
        handle = await server.client.start("wait_for", "x", id="subject")
        while (await handle.get()).state != workflow_pb2.WORKFLOW_STATE_WAITING:
            await asyncio.sleep(0.01)
        known = await server.app.engine.find("subject")
        (store,) = stores
        store.is_late = True
        await handle.signal("go", "on")
        while not await store.store.read_events(known.key, known.last_sequence, limit=1, max_bytes=1):
            await asyncio.sleep(0.01)
        newest = (await store.store.find(["subject"]))["subject"].last_sequence
        assert (await server.app.engine.find("subject")).last_sequence < newest
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id="subject", after_sequence=newest)
        watch = server.stub.WatchWorkflow(request)
        assert (await watch.read()).last_sequence == newest
        store.may_return.set()
        while (frame := await watch.read()) is not grpc.aio.EOF:
            assert all(event.sequence > newest for event in frame.events)
