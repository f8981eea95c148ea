"""How soon watchers see what happened: one on a workflow, and 1,000; and what 1,000 bare streams take beside it.

Each time is from before a signal is sent to when a watcher has the frame that tells of it: the call, the commit and
the frame. The client reads all the streams in one process, which takes most of the time for 1,000.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc

from bench.servers import LISTEN, TELL
from mendflow.ids import new_id
from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.rows import Bench

#: How often something happens, all watchers together.
FRAMES = 20_000
#: At the most and at the least, for any number of watchers.
MOST, LEAST = 400, 20


class Audience:
    """Who waits for each round to arrive everywhere."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._missing = 0
        self._all = asyncio.Event()
        self._began = 0.0
        self.took: list[float] = []

    def begin(self) -> None:
        """A round begins."""
        self._missing = self._size
        self._all.clear()
        self._began = time.perf_counter()

    def arrived(self) -> None:
        """One has it."""
        self.took.append((time.perf_counter() - self._began) * 1e3)
        self._missing -= 1
        if not self._missing:
            self._all.set()

    async def everyone(self) -> None:
        """Wait for the last."""
        async with asyncio.timeout(60):
            await self._all.wait()

    @property
    def p99(self) -> float:
        """The 99th percentile, in milliseconds."""
        return sorted(self.took)[int(len(self.took) * 0.99)]


def rounds_of(bench: Bench, watchers: int) -> int:
    """Answer how often something happens for so many."""
    return bench.count(max(LEAST, min(MOST, FRAMES // watchers)))


def watchers_see(count: int) -> Callable[[Bench], Awaitable[float]]:
    """A signal to the frame that tells of it, with so many watchers on one workflow: the 99th percentile."""

    async def measure(bench: Bench) -> float:
        rounds = rounds_of(bench, count)
        audience = Audience(count)
        async with grpc.aio.insecure_channel(bench.address) as channel:
            stub: Any = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
            workflow_id = new_id()
            start = workflow_service_pb2.StartWorkflowRequest(workflow_id=workflow_id, workflow_type="told")
            start.input.json = str(rounds)
            await stub.StartWorkflow(start)

            async def watch() -> None:
                request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id)
                ready = False
                async for frame in stub.WatchWorkflow(request):
                    told = sum(event.HasField("signal_received") for event in frame.events)
                    if told or not ready:
                        ready = True
                        audience.arrived()

            audience.begin()
            watching = [asyncio.create_task(watch()) for _ in range(count)]
            await audience.everyone()
            audience.took.clear()
            signal = workflow_service_pb2.SignalWorkflowRequest(workflow_id=workflow_id, name="go")
            for _ in range(rounds):
                audience.begin()
                await stub.SignalWorkflow(signal)
                await audience.everyone()
            await asyncio.gather(*watching)
        return audience.p99

    return measure


async def bare_streams(bench: Bench) -> float:
    """A call to the message that it sends down 1,000 bare streams: the limit of fan-out, the 99th percentile."""
    count = 1_000
    audience = Audience(count)
    async with grpc.aio.insecure_channel(bench.echo_address) as channel:
        listen: Any = channel.unary_stream(LISTEN)
        tell: Any = channel.unary_unary(TELL)

        async def hear() -> None:
            async for _ in listen(b"", wait_for_ready=True):
                audience.arrived()

        audience.begin()
        hearing = [asyncio.create_task(hear()) for _ in range(count)]
        await audience.everyone()
        audience.took.clear()
        for _ in range(rounds_of(bench, count)):
            audience.begin()
            await tell(b"x" * 100)
            await audience.everyone()
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
    return audience.p99
