"""State of the whole process: what a step does to it takes nothing from the server."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from tests.support.process_workflows import DEEDS
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODULES = ("process_workflows",)


def ended(log: list[dict[str, Any]]) -> set[str]:
    return {line["workflow_id"] for line in log if line.get("event") == "workflow_ended"}


def wait_for(condition: Callable[[], object], server: ServerProcess) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, server.log
        time.sleep(0.02)


async def test_a_step_that_captures_the_output_gets_no_line_of_the_log(tmp_path: Path) -> None:
    with serving_process(tmp_path, modules=MODULES) as server:
        async with Client(server.grpc_address) as client:
            capturing = await client.start("captures", id="captures")
            await asyncio.to_thread(wait_for, (tmp_path / "capturing").exists, server)
            await client.run("nothing", id="neighbour")
            (tmp_path / "captured").touch()
            assert await capturing.result() == ""
        assert await asyncio.to_thread(server.terminate) == 0
        assert ended(server.log) == {"captures", "neighbour"}


async def test_no_step_silences_the_log_or_harms_the_health(tmp_path: Path) -> None:
    names = [*DEEDS]
    with serving_process(tmp_path, modules=MODULES) as server:
        async with Client(server.grpc_address) as client:
            for name in names:
                await client.run("deeds", name, id=name)
                await client.run("nothing", id=f"after-{name}")
                assert {name, f"after-{name}"} <= ended(server.log), "also the next workflow's lines"
                status, _ = await asyncio.to_thread(server.health)
                assert status == 200, name
        assert await asyncio.to_thread(server.terminate) == 0
        assert server.log[-1]["event"] == "drained"


@pytest.mark.parametrize("hook", ["threading", "sys", "deleted"])
async def test_a_step_that_breaks_the_hooks_of_threads_stops_no_other_step(tmp_path: Path, hook: str) -> None:
    environment = {"OTEL_TRACES_EXPORTER": "console"}
    with serving_process(tmp_path, modules=MODULES, environment=environment) as server:
        async with Client(server.grpc_address, retry_for=5) as client:
            assert await client.run("hooks", hook, id="first", timeout=20) == "mendflow-step-1"
            assert (await asyncio.to_thread(server.health))[0] == 200
        assert await asyncio.to_thread(server.terminate) == 0
        assert not [line for line in server.log if line.get("level") in ("error", "critical")], server.log
        assert "drained" in [line.get("event") for line in server.log]


async def test_spans_on_the_console_are_not_captured_either(tmp_path: Path) -> None:
    with serving_process(tmp_path, modules=MODULES, environment={"OTEL_TRACES_EXPORTER": "console"}) as server:
        async with Client(server.grpc_address) as client:
            await client.run("deeds", "close", id="deeds")
        assert await asyncio.to_thread(server.terminate) == 0
        names = [line["name"] for line in server.log if "name" in line]
        assert names == ["step does_on_thread", "workflow deeds"]


#: A module that goes elsewhere when it is imported.
LEAVES = """
import os
from process_workflows import *
os.chdir("/")
"""


@pytest.mark.parametrize("module", ["process_workflows", "leaves"])
async def test_relative_paths_are_those_of_the_start(tmp_path: Path, module: str) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES)
    (tmp_path / "imported_late.py").write_text('NAME = "found"\n')
    server = ServerProcess(tmp_path, modules=(module,), environment={"PYTHONSAFEPATH": "1"}, url="sqlite:///here.db")
    try:
        server.start()
        async with Client(server.grpc_address) as client:
            assert await client.run("imports_late") == "found"
        assert await asyncio.to_thread(server.terminate) == 0
    finally:
        server.kill()
    assert (tmp_path / "here.db").exists()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", ["ignore", "handle"])
async def test_a_step_that_takes_the_signals_does_not_keep_the_server_from_draining(
    tmp_path: Path, how: str, loop: str
) -> None:
    with serving_process(tmp_path, modules=MODULES, environment={"MENDFLOW_EVENT_LOOP": loop}) as server:
        async with Client(server.grpc_address) as client:
            await client.run("takes_signals", how)
        await asyncio.to_thread(
            wait_for,
            lambda: sum(line["event"] == "signal_handler_restored" for line in server.log) == 2,
            server,
        )
        assert await asyncio.to_thread(server.terminate) == 0
        assert server.log[-1]["event"] == "drained"
