"""Steps that fork: their children inherit nothing of the server's, and the server does not notice them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from tests.support.servers import ServerProcess, serving_process, until
from tests.support.span_receiver import receiving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, because it looks into /proc"),
]

LOOPS = ["uvloop", "asyncio"]
WAYS = [
    "os.fork", "fork", "forkserver", "spawn", "pool", "executor", "preexec", "popen",
    "loop os.fork", "loop fork", "loop preexec", "loop run",
]  # fmt: skip


@pytest.fixture(params=LOOPS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path, modules=("fork_workflows",))
    server.environment = {
        "MENDFLOW_EVENT_LOOP": request.param,
        "MENDFLOW_TEST_PORT": str(server.grpc_port),
        "MENDFLOW_LOOP_LAG_LIMIT": "60",  # Some steps wait for their child on the loop.
    }
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def orphans_end(tmp_path: Path) -> Iterator[None]:
    """End the processes that outlive the servers. Children have the servers' environment, which names the directory."""
    yield
    mine = f"MENDFLOW_TEST_JOURNAL={tmp_path}/".encode()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal() and mine in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[Client]:
    async with Client(server.grpc_address) as client:
        yield client


def word(server: ServerProcess, name: str) -> Any:
    return json.loads((server.directory / f"{name}.json").read_text())


def lives(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def assert_untouched(server: ServerProcess) -> None:
    """Assert that the server serves and does not drain."""
    assert server.process is not None
    assert server.process.poll() is None, "the server has ended"
    assert server.health()[0] == 200
    unwanted = {"draining", "drained", "part_failed", "grpc_accept_loop_ended"}
    assert not [line for line in server.log if line["event"] in unwanted]


async def test_a_child_forked_in_any_way_has_nothing_of_the_servers(server: ServerProcess, client: Client) -> None:
    for way in WAYS:
        assert await client.run("looks", way) == way
        found = word(server, way)
        assert found["pid"] != server.process.pid if server.process else False
        left = {name: found[name] for name in ("files", "wakeup", "handlers", "blocked", "loop")}
        free = {"SIGTERM": True, "SIGINT": True}
        if way in {"forkserver", "spawn", "popen"}:
            free["SIGINT"] = found["handlers"]["SIGINT"]  # A new interpreter has a handler of its own.
        assert left == {"files": [], "wakeup": -1, "handlers": free, "blocked": [], "loop": False}, way
        assert not {server.grpc_port, server.http_port} & set(found["ports"]), way
    assert_untouched(server)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_a_signal_to_a_child_ends_the_child_and_not_the_server(
    server: ServerProcess, client: Client, name: str
) -> None:
    number = -getattr(signal, name)
    for _ in range(5):
        assert await client.run("terminates", name) == [number, number]
        (server.directory / "ran.json").unlink()
    assert_untouched(server)


@pytest.mark.parametrize("how", ["executor", "process"])
async def test_a_killed_servers_children_keep_neither_its_file_nor_its_ports(
    server: ServerProcess, client: Client, how: str
) -> None:
    pids = await client.run("orphans", how)
    server.kill()
    assert all(map(lives, pids)), "they outlive it"
    server.start()
    assert await client.run("looks", "os.fork") == "os.fork"
    assert all(map(lives, pids))


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("words", 1), ("raise", 1), ("return", 0)])
async def test_a_child_that_leaves_its_step_ends_with_the_code_that_it_gave(
    server: ServerProcess, client: Client, how: str, code: int
) -> None:
    assert await client.run("leaves", how) == [code, code]
    assert_untouched(server)


@pytest.mark.parametrize("how", ["await", "sleep"])
async def test_a_child_that_awaits_in_its_step_ends_and_serves_nothing(
    server: ServerProcess, client: Client, how: str
) -> None:
    assert await client.run("leaves", how) == [1]
    assert_untouched(server)


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_child_that_makes_a_client_gets_an_error_and_does_not_hang(
    server: ServerProcess, client: Client, how: str
) -> None:
    assert await client.run("calls", how) == 3
    assert "forked" in word(server, "call")
    assert "spawn" in word(server, "call")
    assert_untouched(server)


async def test_a_server_whose_steps_fork_under_load_serves_every_call(server: ServerProcess, client: Client) -> None:
    ways = ["os.fork", "fork", "loop fork", "executor"] * 10
    assert await asyncio.gather(*(client.run("looks", way) for way in ways)) == ways
    assert_untouched(server)
    assert server.terminate() == 0


async def test_a_child_sends_none_of_the_spans_that_the_server_has_yet_to_send(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        received = stack.enter_context(receiving())
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
        server = stack.enter_context(serving_process(tmp_path, modules=("fork_workflows",), environment=environment))
        async with Client(server.grpc_address) as client:
            for way in ("os.fork", "fork", "loop fork", "executor"):
                await client.run("looks", way)
            assert await client.run("leaves", "exit") == [7, 7]
            assert not received.spans
        assert await asyncio.to_thread(server.terminate) == 0
        ids = [span.span_id for span in received.spans]
    assert len(ids) == len(set(ids)) == 5 + 6


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_a_second_signal_in_a_drain_ends_the_process_and_fails_no_step(
    server: ServerProcess, client: Client, name: str
) -> None:
    number = getattr(signal, name)
    await client.start("is_interrupted", name, id="subject")
    assert await until((server.directory / "busy.json").exists)
    assert server.process is not None
    server.process.send_signal(number)
    assert await until(lambda: any(line["event"] == "draining" for line in server.log))
    server.process.send_signal(number)
    assert await asyncio.to_thread(server.wait_died) == -number
    server.start()
    async for event in client.handle("subject").watch(kinds=[event_pb2.EVENT_KIND_ATTEMPT_FAILED]):
        assert event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
        break
    await client.terminate("subject", "enough")
    assert (await client.get("subject")).state == workflow_pb2.WORKFLOW_STATE_TERMINATED
