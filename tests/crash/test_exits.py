"""No exception from a step's code, and no stop of the loop, ends the server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from tests.support.exit_workflows import WAYS
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator

#: For these ways the server logs nothing, because nothing leaves the loop.
QUIET = {"in_to_thread", "in_executor", "in_thread", "in_del", "by_close", "by_exit", "by_exit_after_a_turn"}
if sys.version_info >= (3, 12):
    QUIET.add("in_wait_for")  # It makes no task any more.


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server on each of the loops."""
    directory = tmp_path_factory.mktemp(request.param)
    environment = {"MENDFLOW_EVENT_LOOP": request.param}
    with serving_process(directory, modules=("tests.support.exit_workflows",), environment=environment) as process:
        yield process


@pytest.mark.parametrize("way", [*WAYS, "on_thread"])
async def test_step_that_tries_to_end_the_process_harms_no_other(server: ServerProcess, way: str) -> None:
    logged = len(server.log)
    async with Client(server.grpc_address) as client:
        ended, number = await client.run("ends_process", way, timeout=15)
    assert server.process is not None
    assert server.process.poll() is None
    assert number == "1", "the attempt beside it was not interrupted"
    fails = way == "on_thread" or WAYS[way][1]
    assert ended == ("StepFailed" if fails else "NoneType")
    news = [line for line in server.log[logged:] if line["event"] in ("exit_from_loop_ignored", "stop_of_loop_ignored")]
    if way.startswith("by_stop"):
        assert news[0]["event"] == "stop_of_loop_ignored"
    elif way not in QUIET and way != "on_thread":
        assert news[0]["error"] in ("SystemExit", "KeyboardInterrupt")
        assert "exit_workflows.py" in str(news[0]["exception"])


async def test_server_whose_steps_tried_to_end_it_serves_on_and_drains(server: ServerProcess) -> None:
    async with Client(server.grpc_address) as client:
        await client.run("ends_process", "in_call_soon", timeout=15)
    assert server.health()[0] == 200
    assert server.terminate() == 0
    assert "drained" in [line["event"] for line in server.log]
    server.start()
