"""A thousand watchers, of whom most never read: the server's memory stays as it is, and the others get each event."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from mendflow import Client
from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc
from tests.conftest import serving_process
from tests.load_workflows import Leg
from tests.scale import scaled
from tests.watch.watchers import CHANNEL_OPTIONS, RawWatch, unfaithful

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import ServerProcess

HEALTHY = 20
STALLED = 980
CONNECTIONS = 20
#: Healthy watchers wait for each round's events before the next round is asked for.
ROUNDS = scaled(90, 900)
#: What each stalled watcher may cost more at the end than after a third of the rounds, in bytes. Nothing is kept for it
#: but the frame that waits to be sent, and that it had by then; this is for what allocators blur.
ALLOWANCE = 1 << 10
#: The workflow itself remembers its results while it runs: so many times what its history grew by, for all watchers.
REMEMBERED = 3
#: What a watcher may cost who stalls at once, on a history that is there already: its frame, of 64 KiB, as a message,
#: as bytes and in gRPC's hands, and a call. A frame of 512 KiB took 2 MiB, and 1,000 such watchers the server's memory.
STALLED_AT_ONCE = 320 << 10
#: What a stalled stream takes in stays what it is at first, 64 KiB: it shall stall soon.
OPTIONS = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0)]
#: How long one run may take, in seconds.
LIMIT = scaled(60, 600)


@contextlib.asynccontextmanager
async def stubs_to(server: ServerProcess) -> Any:
    """Connections of their own."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(server.grpc_address, options=OPTIONS) for _ in range(CONNECTIONS)]
        for channel in channels:
            await stack.enter_async_context(channel)
        yield [workflow_service_pb2_grpc.WorkflowServiceStub(channel) for channel in channels]


def stall(stubs: list[Any]) -> list[Any]:
    """Open watches that nobody will read."""
    request = workflow_service_pb2.WatchWorkflowRequest(workflow_id="subject")
    return [stubs[index % CONNECTIONS].WatchWorkflow(request) for index in range(STALLED)]


def resident(server: ServerProcess) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)


def waits(frame: workflow_service_pb2.WatchWorkflowResponse, number: int) -> bool:
    """Whether it tells that the workflow waits for this round's signal, or has ended after the last round."""
    return any(
        event.HasField("workflow_succeeded") if number == ROUNDS else event.signal_awaited.name == f"go-{number}"
        for event in frame.events
    )


async def all_seen(watches: list[RawWatch], number: int) -> None:
    """Wait until each of them has seen all that comes before this round."""
    for watch in watches:
        while not watch.streams or not any(waits(frame, number) for frame in watch.streams[-1].frames[-9:]):
            await asyncio.sleep(0.001)


@pytest.mark.timeout(LIMIT + 60)
async def test_those_who_never_read_cost_nothing_more_and_hold_nobody_up(tmp_path: Path) -> None:
    legs = [leg for number in range(ROUNDS) for leg in (Leg("signal", signal=f"go-{number}"), Leg("bulk", 3))]
    with serving_process(tmp_path, modules=("tests.load_workflows",)) as server:
        async with (
            asyncio.timeout(LIMIT),
            Client(server.grpc_address, timeout=30.0) as client,
            stubs_to(server) as stubs,
        ):
            handle = await client.start("errand", [asdict(leg) for leg in legs], id="subject")
            never_read = stall(stubs)
            await asyncio.gather(*(call.initial_metadata() for call in never_read))
            # On the same connections as those who stall.
            watches = [RawWatch("subject") for _ in range(HEALTHY)]
            watching = [asyncio.create_task(watch.run(stub)) for watch, stub in zip(watches, stubs, strict=False)]
            sizes = []
            for number in range(ROUNDS):
                await handle.signal(f"go-{number}", "x")
                await all_seen(watches, number + 1)
                sizes.append(resident(server))
            await asyncio.gather(*watching)
            history = [event async for event in handle.events()]
            stalled = sum(not call.done() for call in never_read)
            for call in never_read:
                call.cancel()
    unread = sum(event.ByteSize() for event in history[len(history) // 3 :])
    growth = (sizes[-1] - sizes[ROUNDS // 3]) / STALLED
    print(  # noqa: T201 - the proof's figures
        f"\n{STALLED} stalled, {HEALTHY} others; {len(history)} events; from {sizes[ROUNDS // 3] >> 20} to "
        f"{sizes[-1] >> 20} MiB: {growth:.0f} bytes a stalled watcher, of {unread} unread"
    )
    assert [fault for watch in watches for fault in unfaithful(watch, history)] == []
    assert stalled == STALLED
    allowance = ALLOWANCE + REMEMBERED * unread / STALLED
    assert unread > 200 * allowance
    assert growth < allowance


@pytest.mark.timeout(LIMIT + 60)
async def test_those_who_stall_on_an_old_history_cost_a_small_frame_each(tmp_path: Path) -> None:
    steps = 100
    with serving_process(tmp_path, modules=("tests.load_workflows",)) as server:
        async with asyncio.timeout(LIMIT), Client(server.grpc_address) as client, stubs_to(server) as stubs:
            assert await client.run("errand", [asdict(Leg("bulk", steps))], id="subject") == ["stepped"]
            history = [event async for event in client.handle("subject").events()]
            before = resident(server)
            never_read = stall(stubs)
            await asyncio.gather(*(call.initial_metadata() for call in never_read))
            # Whoever comes now is served all the same, behind them and then alone.
            watch = RawWatch("subject")
            await watch.run(stubs[0])
            each = (resident(server) - before) / STALLED
            assert not any(call.done() for call in never_read)
            for call in never_read:
                call.cancel()
    size = sum(event.ByteSize() for event in history)
    print(f"\n{STALLED} stalled on an old history of {size} bytes: {each:.0f} bytes each")  # noqa: T201 - as above
    assert list(unfaithful(watch, history)) == []
    assert size > 5 * STALLED_AT_ONCE
    assert each < STALLED_AT_ONCE
