"""The latency from a signal to its event at 1 watcher and at 1,000 watchers, and of 1,000 bare streams for comparison.

A latency is the time from before a signal's call until a watcher has the frame with its event, so it includes the call,
the commit and the frame. One client process reads all streams, which takes most of the time for 1,000.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc

from bench.servers import LISTEN, PUBLISH
from mendflow.ids import new_id
from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.rows import Bench

#: The number of frames in one row, for all watchers together.
FRAMES = 20_000
#: The most and the fewest rounds, for any number of watchers.
MOST, LEAST = 400, 20


class Audience:
    """The receivers of each round, and their latencies in milliseconds."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._missing = 0
        self._all = asyncio.Event()
        self._began = 0.0
        self.took: list[float] = []

    def begin(self) -> None:
        """Start a round."""
        self._missing = self._size
        self._all.clear()
        self._began = time.perf_counter()

    def arrived(self) -> None:
        """Record that one receiver has the message."""
        self.took.append((time.perf_counter() - self._began) * 1e3)
        self._missing -= 1
        if not self._missing:
            self._all.set()

    async def everyone(self) -> None:
        """Wait until every receiver has the message."""
        async with asyncio.timeout(60):
            await self._all.wait()

    @property
    def p99(self) -> float:
        """The 99th percentile, in milliseconds."""
        return sorted(self.took)[int(len(self.took) * 0.99)]


def rounds_of(bench: Bench, watchers: int) -> int:
    """Return the number of rounds for this many watchers."""
    return bench.count(max(LEAST, min(MOST, FRAMES // watchers)))


def watchers_see(count: int) -> Callable[[Bench], Awaitable[float]]:
    """Return a measure of the 99th percentile from a signal to its frame, with ``count`` watchers on one workflow."""

    async def measure(bench: Bench) -> float:
        rounds = rounds_of(bench, count)
        audience = Audience(count)
        async with grpc.aio.insecure_channel(bench.address) as channel:
            stub: Any = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
            workflow_id = new_id()
            start = workflow_service_pb2.StartWorkflowRequest(workflow_id=workflow_id, workflow_type="signalled")
            start.input.json = str(rounds)
            await stub.StartWorkflow(start)

            async def watch() -> None:
                request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id)
                ready = False
                async for frame in stub.WatchWorkflow(request):
                    signals = sum(event.HasField("signal_received") for event in frame.events)
                    if signals or not ready:
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
    """Measure the 99th percentile from a call to its message on 1,000 bare streams, which is the limit of fan-out."""
    count = 1_000
    audience = Audience(count)
    async with grpc.aio.insecure_channel(bench.echo_address) as channel:
        listen: Any = channel.unary_stream(LISTEN)
        publish: Any = channel.unary_unary(PUBLISH)

        async def hear() -> None:
            async for _ in listen(b"", wait_for_ready=True):
                audience.arrived()

        audience.begin()
        hearing = [asyncio.create_task(hear()) for _ in range(count)]
        await audience.everyone()
        audience.took.clear()
        for _ in range(rounds_of(bench, count)):
            audience.begin()
            await publish(b"x" * 100)
            await audience.everyone()
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
    return audience.p99
