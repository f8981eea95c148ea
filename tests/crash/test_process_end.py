"""A server that is asked to end does end, whatever user code and the disk do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from tests.crash.power import build_platter, loading
from tests.support.servers import ServerProcess, serving_process, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.proof

MODULES = ("tests.support.hanging_workflows",)
#: In seconds. The drain takes at most this long.
DRAIN = {"MENDFLOW_DRAIN_TIMEOUT": "1", "MENDFLOW_EXIT_TIMEOUT": "3", "MENDFLOW_LOOP_LAG_LIMIT": "0.5"}
#: Longer than the drain and all that may follow it take, in seconds.
PATIENCE = 40.0
#: How each way of hanging ends: the exit code, and what the log has.
WAYS = {
    "swallows": (0, "task_left_at_end"),
    "in_executor": (0, "exit_forced"),
    "in_thread": (0, "exit_forced"),
    # Its generator runs without end while the interpreter frees it, when no thread of Python runs any more.
    "in_generator": (1, "generators_left_at_end"),
    "on_thread": (0, "drained"),
    "blocks_the_loop": (1, "exit_forced"),
    "": (1, "exit_forced"),
}
#: The ways after which the server does not answer any more.
BLOCKING = ("", "blocks_the_loop")


@pytest.fixture(params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """Return a server on each of the loops."""
    environment = {"MENDFLOW_EVENT_LOOP": request.param, **DRAIN}
    with serving_process(tmp_path, modules=MODULES, environment=environment) as process:
        yield process


async def in_progress(server: ServerProcess, name: str) -> None:
    """Start a workflow that hangs in this way, and wait until its code runs."""
    async with Client(server.grpc_address) as client:
        handle = await client.start("hangs", name, id="hangs")
        if name in BLOCKING:
            return  # The server does not answer any more.
        async for event in handle.events():
            if event.HasField("attempt_started"):
                return


@pytest.mark.parametrize("way", WAYS)
async def test_code_that_does_not_end_does_not_keep_the_process(server: ServerProcess, way: str) -> None:
    code, event = WAYS[way]
    with_answer = asyncio.wait_for(in_progress(server, way), 10)
    await asyncio.gather(with_answer, return_exceptions=way in BLOCKING)
    assert await asyncio.to_thread(server.terminate, PATIENCE) == code
    events = {line["event"]: line for line in server.log}
    assert event in events
    assert ("drained" in events) == (way not in BLOCKING)
    if way in BLOCKING:
        blocked = events["event_loop_blocked"]
        assert (blocked["workflow_id"], blocked["workflow_type"]) == ("hangs", "hangs")
        assert blocked.get("step_key", "") == way
        assert any("hanging_workflows.py" in place for place in blocked["frames"])
        assert any("hanging_workflows.py" in place for place in events["exit_forced"]["main_thread"])
    if way == "in_thread":
        assert events["exit_forced"]["threads"] == ["left by a step"]


async def test_a_disk_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    library = build_platter(tmp_path, Path(__file__).with_name("platter.c"))
    directory = (tmp_path / "server").resolve()
    (directory / "platter").mkdir(parents=True)
    hangs = directory / "hangs"
    server = ServerProcess(directory, modules=MODULES, environment={**DRAIN, "PLATTER_HANGS": str(hangs)})
    server.environment |= loading(library, server.store, directory / "platter")
    server.start()
    try:
        hangs.touch()
        async with Client(server.grpc_address) as client:
            starting = asyncio.ensure_future(client.start("ends", id="never committed"))
            assert await until(lambda: server.health()[0] == 503)
            code = await asyncio.to_thread(server.terminate, PATIENCE)
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    finally:
        server.kill()
    assert code == 0
    events = [line["event"] for line in server.log]
    assert events[-1] == "exit_forced"
    assert "drain_not_recorded" in events
