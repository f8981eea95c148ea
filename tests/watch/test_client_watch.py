"""The client's watch over a bad network loses no event and delivers none twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

import pytest

from mendflow import Client, workflow
from mendflow.errors import ServerUnavailable, WorkflowNotFound
from mendflow.v1 import event_pb2
from tests.support.promises import Evidence, Watched, broken, read_store
from tests.support.proxy import Proxy
from tests.support.servers import Server, ServerProcess, free_port, serving
from tests.support.workflows import note_down

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STEPS = 150
EVENTS = 1 + 3 + STEPS * 2 + 1


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.app.grpc_port) as between:
        yield between


def assert_faithful(directory: Path, watched: Watched, seed: str = "") -> None:
    """Assert that the workflow has ended, and that the watched events equal the stored ones."""
    wrong = broken(Evidence(read_store(directory / "mendflow.db"), watched=[watched]))
    assert not wrong, "\n".join([seed, *map(str, wrong)])


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_watch_cut_at_random_is_dense_and_complete(
    server: Server, proxy: Proxy, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    reported: list[bool] = []
    async with Client(f"127.0.0.1:{proxy.port}") as client:
        handle = await client.start("chatty", STEPS, id="subject")
        whole = Watched("subject")
        cuts = 0
        async for event in handle.watch(on_connection=lambda connected, _: reported.append(connected)):
            whole.events.append(event)
            if event.HasField("signal_awaited"):
                await server.client.signal("subject", "go")
            if cuts < 8 and dice.random() < 0.1:
                cuts += 1
                proxy.cut()
        whole.ended = True
    assert whole.events[-1].sequence == EVENTS
    assert_faithful(tmp_path, whole, f"seed {seed}")
    assert cuts == 8
    assert proxy.connections > 1
    assert reported[::2] == [False] * len(reported[::2]), "lost, back, lost, back"


async def test_filtered_watch_loses_and_repeats_no_event(server: Server, proxy: Proxy, tmp_path: Path) -> None:
    async with Client(f"127.0.0.1:{proxy.port}") as client:
        handle = await client.start("chatty", STEPS, id="subject")
        await server.client.signal("subject", "go")
        part = Watched("subject", (event_pb2.EVENT_KIND_ATTEMPT_SUCCEEDED,))
        async for event in handle.watch(kinds=part.kinds):
            part.events.append(event)
            if len(part.events) % 40 == 0:
                proxy.cut()
        part.ended = True
    assert len(part.events) == STEPS
    assert_faithful(tmp_path, part)


async def test_silent_stream_is_noticed_and_reopened(server: Server, proxy: Proxy) -> None:
    async with Client(f"127.0.0.1:{proxy.port}") as client:
        handle = await client.start("wait_for", "x", id="subject")
        gone = asyncio.Event()

        def on_connection(connected: bool, _: str) -> None:  # noqa: FBT001 - the callback's own shape
            if not connected:
                gone.set()
                proxy.flow()

        seen: list[int] = []

        async def watch() -> None:
            async for event in handle.watch(on_connection=on_connection, silence=0.3):
                seen.append(event.sequence)
                if event.HasField("signal_awaited"):
                    proxy.stall()

        watching = asyncio.create_task(watch())
        await gone.wait()
        await server.client.signal("subject", "go", "on")
        await asyncio.wait_for(watching, 20)
    assert seen == [1, 2, 3, 4, 5]


async def test_patience_with_a_server_that_never_answers_ends(proxy: Proxy) -> None:
    proxy.stall()
    async with Client(f"127.0.0.1:{proxy.port}", timeout=0.3, retry_for=0.0) as client:
        with pytest.raises(ServerUnavailable, match=r"has not answered within 0\.3 s"):
            await anext(aiter(client.handle("x").watch(1)))


async def test_patience_with_a_server_that_is_away_ends() -> None:
    async with Client(f"127.0.0.1:{free_port()}", retry_for=0.3) as client:
        with pytest.raises(ServerUnavailable, match="cannot be reached"):
            await anext(aiter(client.handle("x").watch()))
        with pytest.raises(ServerUnavailable, match="cannot be reached"):
            await client.start("echo", "x")


async def test_refusal_is_not_retried(server: Server) -> None:
    with pytest.raises(WorkflowNotFound):
        await anext(aiter(server.client.handle("missing").watch()))


async def test_leaving_a_watch_ends_its_call(server: Server) -> None:
    handle = await server.client.start("wait_for", "x", id="subject")
    watch = handle.watch()
    await anext(aiter(watch))
    assert server.app.engine.watchers.open == 1
    await watch.aclose()
    while server.app.engine.watchers.open:
        await asyncio.sleep(0.005)


async def test_a_lost_reply_of_a_start_leaves_one_workflow(server: Server, proxy: Proxy) -> None:
    async with Client(f"127.0.0.1:{proxy.port}", timeout=2) as client:
        await client.server_info()
        starting = asyncio.create_task(client.start("echo", "once"))
        # The request gets through, the reply does not.
        while not server.app.engine.workflows_in_memory and not [row async for row in server.client.list()]:
            await asyncio.sleep(0)
        proxy.cut()
        handle = await starting
        assert await handle.result() == "once"
    assert len([workflow async for workflow in server.client.list()]) == 1


def tasks_of_the_client() -> set[asyncio.Task[object]]:
    """Return all tasks but those in which the server, on the same loop, waits for calls."""
    return {task for task in asyncio.all_tasks() if "AioServer" not in repr(task)}


def open_watches(server: Server) -> int:
    return server.app.engine.watchers.open


async def test_breaking_out_of_a_watch_leaves_no_call_and_no_task(server: Server) -> None:
    handle = await server.client.start("wait_for", "x", id="subject")
    before = tasks_of_the_client()
    async for event in handle.watch():
        if event.HasField("signal_awaited"):
            break
    while open_watches(server) or tasks_of_the_client() - before:
        await asyncio.sleep(0.005)
    # A caller that wants the watch closed at once does this.
    async with contextlib.aclosing(handle.watch()) as events:
        await anext(events)
        assert open_watches(server) == 1
    while open_watches(server) or tasks_of_the_client() - before:
        await asyncio.sleep(0.005)


async def test_cancelling_a_watch_ends_its_call(server: Server) -> None:
    handle = await server.client.start("wait_for", "x", id="subject")

    async def watch() -> None:
        async for _ in handle.watch():
            pass

    watching = asyncio.create_task(watch())
    while not server.app.engine.watchers.open:
        await asyncio.sleep(0.005)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    while server.app.engine.watchers.open:
        await asyncio.sleep(0.005)


@workflow
async def bulky(steps: int) -> None:
    """Write 1.8 MB of history a step."""
    for _ in range(steps):
        await note_down("x" * 900_000)


async def test_slow_reader_fetches_no_more_than_the_connection_buffers(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, definitions={"bulky": bulky}) as server,
        Proxy(server.app.grpc_port) as proxy,
        Client(f"127.0.0.1:{proxy.port}") as client,
    ):
        await server.client.run(bulky, 20, id="subject")
        async with contextlib.aclosing(client.handle("subject").watch()) as events:
            await anext(events)
            fetched = -1
            while fetched != proxy.bytes_to_client:
                fetched = proxy.bytes_to_client
                await asyncio.sleep(0.2)
            # Two sockets' buffers and gRPC's window, however long the history is.
            assert fetched < 14e6
            assert [event.sequence async for event in events] == list(range(2, 43))
        assert proxy.bytes_to_client > 36e6


async def test_watch_across_restarts_on_the_same_port_is_dense_and_complete(server_process: ServerProcess) -> None:
    reported: list[bool] = []
    async with Client(server_process.grpc_address) as client:
        handle = await client.start("chatty", STEPS, id="subject")
        whole = Watched("subject")
        kills = 0
        async for event in handle.watch(on_connection=lambda connected, _: reported.append(connected)):
            whole.events.append(event)
            if event.HasField("signal_awaited"):
                await client.signal("subject", "go")
            if event.sequence in (30, 120):
                kills += 1
                server_process.kill()
                await asyncio.to_thread(server_process.start)
        whole.ended = True
        assert await handle.result() == STEPS * 1_020
    server_process.kill()
    assert kills == 2
    assert_faithful(server_process.directory, whole)
    # It may have had the rest already when the server died.
    assert reported == [False, True] * (len(reported) // 2)
