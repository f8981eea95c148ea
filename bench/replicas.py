"""Replicas over PostgreSQL: their rate beside SQLite's, what a workflow costs the database, and the time of a takeover.

`make bench-replicas`. All processes share the machine's cores, so two replicas cannot be faster than one here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc

from bench import servers
from bench.rows import until_in_state
from examples.database import postgres
from mendflow.v1 import workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

#: The workflows of one rate, and how many are in flight; the workflows of the ended replica, at scale 1.
CALLS, WIDTH = 4_000, 64
IN_PROGRESS = (100, 5_000)
TURNS = 3

Figures = list[tuple[str, str]]


async def measure(scale: float, store: str) -> Figures:
    """Return the rows of the table. An empty ``store`` is a new PostgreSQL server."""
    with contextlib.ExitStack() as stack:
        url = store or stack.enter_context(postgres())
        figures = await rates(url, round(CALLS * scale))
        for count in IN_PROGRESS:
            figures += await takeover(url, max(1, round(count * scale)))
        return figures


@contextlib.asynccontextmanager
async def running(store: str, count: int) -> AsyncIterator[tuple[list[servers.Running], list[Any], str]]:
    """Run servers on one new schema, or one on an SQLite file. Yield them, their stubs and the store's URL."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mendflow-bench-")))
        url = await asyncio.to_thread(servers.new_schema, store) if store else ""
        found = [stack.enter_context(servers.mendflow(directory, on=url, slots=10_000)) for _ in range(count)]
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(each.address)) for each in found]
        yield found, [workflow_service_pb2_grpc.WorkflowServiceStub(channel) for channel in channels], url


async def rates(store: str, calls: int) -> Figures:
    """Measure the rate of waiting calls on SQLite, and of one and of two replicas, in turns."""
    found: dict[tuple[str, int], list[float]] = {("", 1): [], (store, 1): [], (store, 2): []}
    costs: list[tuple[float, float]] = []
    for _, (url, count) in itertools.product(range(TURNS), found):
        async with running(url, count) as (_, stubs, _):
            await rate(stubs, calls // 5)
            before = await cost(store)
            found[url, count].append(await rate(stubs, calls))
            after = await cost(store)
            if (url, count) == (store, 1):
                costs.append(((after[0] - before[0]) / calls, (after[1] - before[1]) / calls))
    sqlite, one, two = (statistics.median(each) for each in found.values())
    wal, transactions = (statistics.median(each) for each in zip(*costs, strict=True))
    return [
        ("one waiting call each, 64 in flight: SQLite", f"{sqlite:,.0f} /s"),
        ("  one replica on PostgreSQL", f"{one:,.0f} /s, {one / sqlite:.2f} of SQLite"),
        ("  two replicas on the same cores", f"{two:,.0f} /s, {two / one:.2f} of one"),
        ("  write-ahead log, and transactions, for each workflow", f"{wal / 1000:.2f} kB, {transactions:.2f}"),
    ]


async def rate(stubs: Sequence[Any], calls: int) -> float:
    """Return how many workflows a second run to their ends, in turns on the servers."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            request = workflow_service_pb2.StartWorkflowRequest(workflow_type="three_steps")
            request.input.json = "1"
            request.wait.seconds = 60
            await stubs[number % len(stubs)].StartWorkflow(request)

    began = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(WIDTH)))
    return calls / (time.monotonic() - began)


async def cost(store: str) -> tuple[float, float]:
    """Return the bytes of the write-ahead log, and the transactions, of the database until now."""
    connection = await asyncpg.connect(store)
    try:
        wal = await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return float(wal), float(await connection.fetchval(query))
    finally:
        await connection.close()


async def takeover(store: str, count: int) -> Figures:
    """Measure the time from SIGKILL to the first new attempt of each workflow of the killed replica."""
    async with running(store, 2) as (found, stubs, _):
        ids = [f"long-{number}" for number in range(count)]
        for part in _portions(ids, 500):
            request = workflow_service_pb2.BatchStartWorkflowsRequest()
            for each in part:
                request.requests.add(workflow_id=each, workflow_type="takes_long")
            await stubs[0].BatchStartWorkflows(request)
        await until_in_state(stubs[0], workflow_pb2.WORKFLOW_STATE_RUNNING, count)
        killed = time.time()
        found[0].process.send_signal(signal.SIGKILL)
        await asyncio.sleep(8)
        times = sorted([await _second_attempt(stubs[1], each) - killed for each in ids])
    return [
        (
            f"{count:,} in progress at a SIGKILL: first, median, last new attempt on the other replica",
            f"{times[0]:.2f} s, {statistics.median(times):.2f} s, {times[-1]:.2f} s",
        )
    ]


def _portions(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for begin in range(0, len(ids), size):
        yield ids[begin : begin + size]


async def _second_attempt(stub: Any, workflow_id: str) -> float:
    """Return when the second attempt of a workflow's step began, in seconds since the epoch."""
    page = await stub.ListEvents(workflow_service_pb2.ListEventsRequest(workflow_id=workflow_id))
    for event in page.events:
        if event.WhichOneof("detail") == "attempt_started" and event.attempt_started.attempt == 2:  # noqa: PLR2004
            moment: float = event.time.ToMicroseconds() / 1e6
            return moment
    message = f"{workflow_id} has no second attempt"
    raise RuntimeError(message)
