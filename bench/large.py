"""The cost of 100,000 and of a million workflows in the store: `make bench-large`.

Each row has its own stores, filled through the store's interface, and compares them with an empty store in the same
run.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import sqlite3
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import grpc

from bench import servers
from bench.filling import Pattern, fill, read_pattern
from bench.rows import OPEN, Bench, batches, until_in_state, waiting_calls
from mendflow.ids import new_id
from mendflow.v1 import workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

#: The number of workflows in the rows, at scale 1.
ASLEEP, MANY, DUE, IN_PROGRESS = 100_000, 1_000_000, 10_000, 10_000
#: How long nothing is due after a store is filled, in seconds. This leaves time for a slow start.
SOON = 15.0
#: How often each of several servers is measured, in turns.
TURNS = 7
FAR = 86_400.0

Figures = list[tuple[str, str]]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder for one store."""
    with TemporaryDirectory(prefix="mendflow-large-") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[Any]:
    """Yield a stub for a server."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield workflow_service_pb2_grpc.WorkflowServiceStub(channel)


async def patterns(directory: Path) -> tuple[Pattern, Pattern, Pattern]:
    """Return a workflow that has ended, one that sleeps, and one whose first step is in progress."""
    with servers.mendflow(directory) as server:
        async with connected(server.address) as stub:
            start = workflow_service_pb2.StartWorkflowRequest
            ended = start(workflow_id="ended", workflow_type="three_steps")
            ended.input.json = "1"
            ended.wait.seconds = 10
            await stub.StartWorkflow(ended)
            asleep = start(workflow_id="asleep", workflow_type="sleeps")
            asleep.input.json = str(FAR)
            await stub.StartWorkflow(asleep)
            cut = start(workflow_id="cut", workflow_type="takes_long")
            await stub.StartWorkflow(cut)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    path = directory / servers.FILE
    return (
        await read_pattern(path, "ended"),
        await read_pattern(path, "asleep"),
        await read_pattern(path, "cut", upto=2),
    )


async def sleeping(pattern: Pattern, scale: float) -> Figures:
    """Measure the memory above an empty server's, and the rate of starts, with many workflows asleep."""
    count = round(ASLEEP * scale)
    memory, rates = [], []
    for number in (0, count):
        with folder() as directory:
            await fill(directory / servers.FILE, pattern, number, wake=time.time() + FAR)
            with servers.mendflow(directory) as server:
                await asyncio.sleep(5)
                memory.append(server.resident)
                rates.append(await rate(Bench(server, "", directory)))
    return [
        (f"{count:,} asleep: resident memory above an empty server's", f"{memory[1] - memory[0]:.1f} MB"),
        (f"{count:,} asleep: starting others", f"{rates[1]:,.0f} /s, {rates[1] / rates[0]:.2f} of an empty server's"),
    ]


async def rate(bench: Bench) -> float:
    """Return the rate of waiting calls in calls a second, the median of three."""
    return statistics.median([await waiting_calls(64)(bench) for _ in range(3)])


async def due(pattern: Pattern, scale: float) -> Figures:
    """Measure many workflows that are due at one instant, among many more that are not."""
    count, many = round(DUE * scale), round(MANY * scale)
    with folder() as directory:
        path = directory / servers.FILE
        await fill(path, pattern, many - count, wake=time.time() + FAR)
        instant = time.time() + SOON
        await fill(path, pattern, count, wake=instant)
        with servers.mendflow(directory) as server:
            async with connected(server.address) as stub:
                await asyncio.sleep(max(0.0, instant - time.time()))
                late = max(0.0, time.time() - instant)
                await until_in_state(stub, workflow_pb2.WORKFLOW_STATE_SUCCEEDED, count)
                took = time.time() - instant
                rest = await rate(Bench(server, "", directory))
    return [
        (f"{many:,} asleep, {count:,} due at one instant: all have ended after", f"{took:.1f} s"),
        ("  the filling and the start were late by", f"{late:.1f} s"),
        ("  starting others after it", f"{rest:,.0f} /s"),
    ]


async def finished(pattern: Pattern, scale: float) -> Figures:
    """Measure throughput, lists and reads with many ended workflows, with ids in time order and with random ids.

    The servers are measured in turns, because the machine's speed may change within a minute.
    """
    count = round(MANY * scale)
    chance = random.Random(1)
    stores = {
        "an empty store": (0, new_id),
        f"{count:,} finished, in time order": (count, new_id),
        # Both the stored workflows and the new ones have random ids.
        f"{count:,} finished, random ids": (count, lambda: f"{chance.getrandbits(128):032x}"),
    }
    found: dict[str, list[dict[str, float]]] = {what: [] for what in stores}
    with contextlib.ExitStack() as stack:
        benches = {}
        for what, (number, name) in stores.items():
            directory = stack.enter_context(folder())
            await fill(directory / servers.FILE, pattern, number, name=name)
            benches[what] = Bench(stack.enter_context(servers.mendflow(directory)), "", directory, new_id=name)
        for _ in range(TURNS):
            for what, bench in benches.items():
                found[what].append(await measured(bench))
    empty = found["an empty store"]
    figures: Figures = []
    for what, turns in found.items():
        for row in turns[0]:
            figure = statistics.median(turn[row] for turn in turns)
            ratio = statistics.median(turn[row] / beside[row] for turn, beside in zip(turns, empty, strict=True))
            unit = "ms" if "ms" in row else "/s"
            figures.append((f"{what}: {row}", f"{figure:,.2f} {unit} ({ratio:.2f})"))
    return figures


async def measured(bench: Bench) -> dict[str, float]:
    """Return the rates and times of one store, by row."""
    found = {"waiting calls": await waiting_calls(64)(bench), "batches": await batches(bench)}
    async with connected(bench.address) as stub:
        lists = {
            "list, ms": workflow_service_pb2.ListWorkflowsRequest(page_size=100),
            "list by type, ms": workflow_service_pb2.ListWorkflowsRequest(page_size=100, workflow_type="three_steps"),
            "list of the open, ms": workflow_service_pb2.ListWorkflowsRequest(page_size=100, states=OPEN),
        }
        for row, request in lists.items():
            found[row] = await median_of(lambda request=request: stub.ListWorkflows(request))
        page = await stub.ListWorkflows(lists["list, ms"])
        get = workflow_service_pb2.GetWorkflowRequest(workflow_id=page.workflows[-1].workflow_id)
        found["get, ms"] = await median_of(lambda: stub.GetWorkflow(get))
    return found


async def median_of(call: Any) -> float:
    """Return the median time of a call, in milliseconds."""
    took = []
    for _ in range(100):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def recovered_at(store: Path, key: int) -> float:
    """Wait until a new server's first event of this workflow is committed, and return the time (since the epoch)."""
    with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as reader:
        for _ in range(6_000):
            (generation,) = reader.execute("SELECT generation FROM workflows WHERE key = ?", (key,)).fetchone()
            if generation > 1:
                return time.time()
            time.sleep(0.005)
    raise TimeoutError(f"workflow {key} in {store} was not recovered within 30 s")


async def until_none_open(stub: Any) -> None:
    """Wait until no workflow is open."""
    request = workflow_service_pb2.ListWorkflowsRequest(page_size=1, states=OPEN)
    while (await stub.ListWorkflows(request)).workflows:  # noqa: ASYNC110 - another process ends them
        await asyncio.sleep(0.02)


async def restart(pattern: Pattern, scale: float) -> Figures:
    """Measure how soon the first of many workflows resumes after a crash during a step, and how soon all have ended."""
    count = round(IN_PROGRESS * scale)
    with folder() as directory:
        await fill(directory / servers.FILE, pattern, count)
        copy = directory / "copy"
        copy.mkdir()
        shutil.copy(directory / servers.FILE, copy)
        with contextlib.closing(sqlite3.connect(copy / servers.FILE)) as store:
            (oldest,) = store.execute("SELECT min(key) FROM workflows WHERE end_time IS NULL").fetchone()
        began = time.time()
        # The workflow is recovered before the server serves calls, so read the store.
        first = asyncio.get_running_loop().run_in_executor(None, recovered_at, copy / servers.FILE, oldest)
        with servers.mendflow(copy) as server:
            async with connected(server.address) as stub:
                await until_none_open(stub)
                every = time.time() - began
    return [
        (f"{count:,} in progress: the first resumes after the start of the process", f"{await first - began:.2f} s"),
        (f"{count:,} in progress: all have ended after", f"{every:.2f} s"),
    ]


async def measure(scale: float, only: str) -> Figures:
    """Return the rows of sleeping, restart, due and finished, or only of those whose name contains ``only``."""
    with folder() as directory:
        ended, asleep, cut = await patterns(directory)
    figures: Figures = []
    for rows, pattern in ((sleeping, asleep), (restart, cut), (due, asleep), (finished, ended)):
        if only in rows.__name__:
            figures += await rows(pattern, scale)
    return figures
