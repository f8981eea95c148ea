"""The rows of the benchmark. Each has a function that measures its figure."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from bench.fanout import bare_streams, watchers_see
from bench.servers import ECHO, mendflow
from mendflow.ids import new_id
from mendflow.v1 import workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from bench.servers import Running

TYPE = "three_steps"
#: What the rows of a dict, a dataclass and a pydantic model pass from step to step.
ORDER = '{"id":"o-17","customer":"Ada Lovelace","total":99.5,"paid":false,"revision":1,"tags":["new","gift"]}'
OPEN = (
    workflow_pb2.WORKFLOW_STATE_PENDING,
    workflow_pb2.WORKFLOW_STATE_RUNNING,
    workflow_pb2.WORKFLOW_STATE_WAITING,
)


@dataclass(frozen=True)
class Row:
    """A row of the table. ``least`` is the required figure, and ``goal`` is the desired one.

    On a slow machine, a figure also passes if its ratio to the bare echo of the same run reaches ``least_of_echo`` or
    ``goal_of_echo``.
    """

    name: str
    unit: str
    measure: Callable[[Bench], Awaitable[float]]
    least: float | None = None
    goal: float | None = None
    more_is_better: bool = True
    least_of_echo: float = math.inf
    goal_of_echo: float = math.inf

    def reaches(self, figure: float, echo: float, *, goal: bool) -> bool | None:
        """Return whether a figure reaches the required or the desired one, or None if the row has none."""
        wanted = self.goal if goal else self.least
        if wanted is None:
            return None
        if not self.more_is_better:
            return figure <= wanted
        return figure >= wanted or figure / echo >= (self.goal_of_echo if goal else self.least_of_echo)


@dataclass
class Bench:
    """The environment of one run."""

    server: Running
    echo_address: str
    directory: Path
    #: The amount of work in each row, from 0 to 1.
    scale: float = 1.0
    #: Makes the ids of new workflows.
    new_id: Callable[[], str] = new_id
    latencies: dict[str, list[float]] = field(default_factory=dict)
    #: The processor time for each workflow in the server and in the client, in microseconds, by row.
    processor: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The server's address."""
        return self.server.address

    def count(self, number: int) -> int:
        """Return a number at this scale."""
        return max(1, round(number * self.scale))


def start_request(bench: Bench, *, wait: bool, workflow_type: str = TYPE) -> workflow_service_pb2.StartWorkflowRequest:
    """Return a request to start one workflow."""
    request = workflow_service_pb2.StartWorkflowRequest(workflow_id=bench.new_id(), workflow_type=workflow_type)
    request.input.json = "1" if workflow_type == TYPE else ORDER
    if wait:
        request.wait.seconds = 30
    return request


async def until_in_state(stub: Any, state: workflow_pb2.WorkflowState.ValueType, count: int) -> None:
    """Wait until at least ``count`` workflows are in a state."""
    request = workflow_service_pb2.ListWorkflowsRequest(page_size=1_000, states=[state])
    while True:
        found, request.page_token = 0, ""
        while True:
            page = await stub.ListWorkflows(request)
            found += len(page.workflows)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        if found >= count:
            return
        await asyncio.sleep(0.1)


async def in_flight(count: int, width: int, one: Callable[[], Awaitable[None]]) -> float:
    """Run ``one`` ``count`` times, ``width`` concurrently, and return the rate per second."""
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await one()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(min(width, count))))
    return count / (time.perf_counter() - began)


@contextlib.contextmanager
def processor_time(bench: Bench, name: str, count: int) -> Iterator[None]:
    """Record the processor time of the block for each of ``count`` workflows."""
    server, client = bench.server.processor, time.process_time()
    yield
    bench.processor[name] = (
        (bench.server.processor - server) / count * 1e6,
        (time.process_time() - client) / count * 1e6,
    )


def processor_of(
    name: str, measure: Callable[[Bench], Awaitable[float]], side: int
) -> Callable[[Bench], Awaitable[float]]:
    """Return a measure of the processor time for each workflow on one side (0: the server, 1: the client) of a row."""

    async def processor(bench: Bench) -> float:
        if name not in bench.processor:
            await measure(bench)
        return bench.processor[name][side]

    return processor


def connect(bench: Bench) -> tuple[grpc.aio.Channel, Any]:
    """Return a channel and its stub."""
    channel = grpc.aio.insecure_channel(bench.address)
    return channel, workflow_service_pb2_grpc.WorkflowServiceStub(channel)


def waiting_calls(width: int, workflow_type: str = TYPE) -> Callable[[Bench], Awaitable[float]]:
    """Return a measure of StartWorkflow calls that wait for the result."""

    async def measure(bench: Bench) -> float:
        channel, stub = connect(bench)
        async with channel:

            async def one() -> None:
                reply = await stub.StartWorkflow(start_request(bench, wait=True, workflow_type=workflow_type))
                if reply.workflow.state != workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
                    raise RuntimeError(reply)

            count = bench.count(3_000)
            name = f"calls {width}" if workflow_type == TYPE else f"calls {workflow_type}"
            with processor_time(bench, name, count):
                return await in_flight(count, width, one)

    return measure


def of_type(kind: str, workflow_type: str) -> list[Row]:
    """Return the rows of waiting calls whose steps pass an order as such a value."""
    measure = waiting_calls(64, workflow_type)
    return [
        Row(f"one waiting call each, steps pass {kind}, 64 in flight", "/s", measure),
        Row(
            f"processor time of that, {kind}: server",
            "µs",
            processor_of(f"calls {workflow_type}", measure, 0),
            more_is_better=False,
        ),
    ]


async def start_then_watch(bench: Bench) -> float:
    """Measure StartWorkflow followed by WatchWorkflow until the end."""
    channel, stub = connect(bench)
    async with channel:

        async def one() -> None:
            request = start_request(bench, wait=False)
            await stub.StartWorkflow(request)
            watch = workflow_service_pb2.WatchWorkflowRequest(workflow_id=request.workflow_id)
            last = 0
            async for frame in stub.WatchWorkflow(watch):
                last = frame.last_sequence
            if last != 8:  # noqa: PLR2004 - WorkflowStarted, three steps of two events, WorkflowSucceeded
                raise RuntimeError(last)

        return await in_flight(bench.count(1_500), 64, one)


async def batches(bench: Bench) -> float:
    """Measure batches of 500 starts until the last workflow has ended."""
    with processor_time(bench, "batches", bench.count(20) * 500):
        return await _batches(bench)


async def _batches(bench: Bench) -> float:
    channel, stub = connect(bench)
    async with channel:
        began = time.perf_counter()
        count = 0
        last = ""
        still_open = workflow_service_pb2.ListWorkflowsRequest(page_size=1, states=OPEN)
        for _ in range(bench.count(20)):
            request = workflow_service_pb2.BatchStartWorkflowsRequest()
            request.requests.extend(start_request(bench, wait=False) for _ in range(500))
            await stub.BatchStartWorkflows(request)
            last = request.requests[-1].workflow_id
            count += len(request.requests)
        get = workflow_service_pb2.GetWorkflowRequest(workflow_id=last)
        get.wait.seconds = 30
        await stub.GetWorkflow(get)
        while (await stub.ListWorkflows(still_open)).workflows:  # noqa: ASYNC110 - another process ends them
            await asyncio.sleep(0.005)
        return count / (time.perf_counter() - began)


async def one_at_a_time(bench: Bench, name: str, *, wait: bool) -> list[float]:
    """Return the times of sequential calls in milliseconds, sorted. They are measured once in each run."""
    if name not in bench.latencies:
        channel, stub = connect(bench)
        async with channel:
            took = []
            for _ in range(bench.count(400)):
                request = start_request(bench, wait=wait)
                began = time.perf_counter()
                await stub.StartWorkflow(request)
                took.append((time.perf_counter() - began) * 1e3)
        bench.latencies[name] = sorted(took)
    return bench.latencies[name]


async def result_median(bench: Bench) -> float:
    """Measure the median from start to result, one at a time."""
    return statistics.median(await one_at_a_time(bench, "result", wait=True))


async def result_p99(bench: Bench) -> float:
    """Measure the 99th percentile from start to result, one at a time."""
    took = await one_at_a_time(bench, "result", wait=True)
    return took[min(len(took) - 1, int(len(took) * 0.99))]


async def acknowledged_median(bench: Bench) -> float:
    """Measure the median of an acknowledged start, one at a time."""
    return statistics.median(await one_at_a_time(bench, "acknowledged", wait=False))


def echoes(width: int) -> Callable[[Bench], Awaitable[float]]:
    """Return a measure of bare grpc.aio calls, which are the limit of calls."""

    async def measure(bench: Bench) -> float:
        async with grpc.aio.insecure_channel(bench.echo_address) as channel:
            call: Any = channel.unary_unary(ECHO)
            await call(b"x" * 100, wait_for_ready=True)

            async def one() -> None:
                await call(b"x" * 100)

            return await in_flight(bench.count(8_000), width, one)

    return measure


async def bare_commit(bench: Bench) -> float:
    """Measure a bare SQLite commit with WAL and synchronous=FULL in milliseconds, which is the limit of the disk."""
    database = sqlite3.connect(bench.directory / f"bare-{time.time_ns()}.db", isolation_level=None)
    try:
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table t (key integer primary key, bytes blob)")
        took = []
        for _ in range(bench.count(500)):
            began = time.perf_counter()
            database.execute("begin immediate")
            database.execute("insert into t (bytes) values (?)", (b"x" * 200,))
            database.execute("commit")
            took.append((time.perf_counter() - began) * 1e3)
        return statistics.median(took)
    finally:
        database.close()


async def start_of_process(bench: Bench) -> float:
    """From exec to SERVING on a new file, in seconds: the median."""
    took = []
    for _ in range(bench.count(7)):
        with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
            began = time.perf_counter()
            with mendflow(Path(directory)):
                took.append(time.perf_counter() - began)
    return statistics.median(took)


ECHO_ROW = "limit: bare gRPC echo, 64 in flight"

ROWS = [
    Row(ECHO_ROW, "/s", echoes(64)),
    Row("limit: bare gRPC echo, 256 in flight", "/s", echoes(256)),
    Row("limit: bare SQLite commit", "ms", bare_commit, more_is_better=False),
    Row(
        "one waiting call each, 64 in flight",
        "/s",
        waiting_calls(64),
        1_700,
        2_500,
        least_of_echo=0.3,
        goal_of_echo=0.45,
    ),
    Row(
        "one waiting call each, 256 in flight",
        "/s",
        waiting_calls(256),
        1_700,
        2_500,
        least_of_echo=0.3,
        goal_of_echo=0.45,
    ),
    Row(
        "processor time of that, 64 in flight: server",
        "µs",
        processor_of("calls 64", waiting_calls(64), 0),
        more_is_better=False,
    ),
    Row(
        "processor time of that, 64 in flight: client",
        "µs",
        processor_of("calls 64", waiting_calls(64), 1),
        more_is_better=False,
    ),
    *of_type("a dict", "three_steps_of_a_dict"),
    *of_type("a dataclass", "three_steps_of_a_dataclass"),
    *of_type("a pydantic model", "three_steps_of_a_model"),
    Row("start, then watch to the end, 64 in flight", "/s", start_then_watch, 800, 1_100),
    Row(
        "in batches of 500, until the last has ended", "/s", batches, 6_000, 10_000, least_of_echo=0.9, goal_of_echo=1.5
    ),
    Row("processor time of that: server", "µs", processor_of("batches", batches, 0), more_is_better=False),
    Row("limit: a call to 1,000 bare streams' message, p99", "ms", bare_streams, more_is_better=False),
    Row("signal to 1 watcher's frame, p99", "ms", watchers_see(1), 10, 3, more_is_better=False),
    Row("signal to 1,000 watchers' frames, p99", "ms", watchers_see(1_000), 100, 50, more_is_better=False),
    Row("start to result, one at a time, median", "ms", result_median, 3, 2, more_is_better=False),
    Row("start to result, one at a time, p99", "ms", result_p99, 6, 4, more_is_better=False),
    Row("acknowledged start, one at a time, median", "ms", acknowledged_median, 2, 1.5, more_is_better=False),
    Row("start of the process, from exec to SERVING, median", "s", start_of_process, 0.7, 0.35, more_is_better=False),
]
