"""`mendflow verify`: its predictions for each change of code, from a file and from a server."""

from __future__ import annotations

import asyncio
import json
import tomllib
from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import workflow_pb2
from tests.support.servers import ROOT, ServerProcess, free_port
from tests.support.verifying import (
    AUTHORIZE,
    client_of,
    run,
    serving_orders,
    source,
    start,
    url,
    write,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from mendflow import Client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Run a server with an order that waits for its approval."""
    with serving_orders(tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Share one such server between tests that do not change it."""
    with serving_orders(tmp_path_factory.mktemp("shared")) as process:
        yield process


def test_a_renamed_step_is_predicted_from_a_running_server_and_from_its_file(server: ServerProcess) -> None:
    def check(*place: str) -> None:
        done = run(server.directory, "renamed", *place)
        assert done.returncode == 1, done.stderr
        head, why, *_ = done.stdout.splitlines()
        assert head == "order-1  order  WAITING  would pause"
        assert "step authorize (event " in why
        assert "step authorise" in why
        assert done.stdout.splitlines()[-1] == "1 open workflow: 1 would pause"
        kept = run(server.directory, "kept", *place)
        assert (kept.returncode, kept.stdout) == (0, "1 open workflow: 1 would continue\n"), kept.stderr

    check("--server", server.grpc_address)
    check("--store", url(server))
    server.terminate()
    check("--store", url(server))
    # The prediction comes true.
    server.modules = ("renamed",)
    server.start()

    async def approve(client: Client) -> workflow_pb2.Workflow:
        await client.signal("order-1", "approve")
        async with asyncio.timeout(20):
            while (found := await client.get("order-1")).state != workflow_pb2.WORKFLOW_STATE_PAUSED:
                await asyncio.sleep(0.01)
        return found

    explanation = client_of(server, approve).explanation
    assert explanation in run_before(server).stdout


def run_before(server: ServerProcess) -> subprocess.CompletedProcess[str]:
    done = run(server.directory, "renamed", "--store", url(server))
    assert "PAUSED  would stay PAUSED" in done.stdout
    resumed = run(server.directory, "kept", "--store", url(server))
    assert resumed.returncode == 0
    assert "order-1  order  PAUSED  would be resumed" in resumed.stdout
    return done


def test_a_removed_call_is_listed_as_waiting_and_passes(shared: ServerProcess) -> None:
    done = run(shared.directory, "removed", "--server", shared.grpc_address)
    assert done.returncode == 0, done.stderr
    head, calls, summary = done.stdout.splitlines()
    assert head.startswith("order-1  order  WAITING  would keep waiting")
    assert "step authorize (event " in calls
    assert summary.startswith("1 open workflow: 1 would keep waiting")


def test_a_marked_call_is_listed_with_the_calls_that_follow_and_passes(shared: ServerProcess) -> None:
    done = run(shared.directory, "marked", "--store", url(shared))
    assert done.returncode == 0, done.stderr
    head, starts, calls, summary = done.stdout.splitlines()
    assert head.startswith("order-1  order  WAITING  would first make calls that are marked as inserted")
    assert starts.strip() == "calls that are marked as inserted: step first"
    assert "step authorize (event " in calls
    assert summary.startswith("1 open workflow: 1 would first make calls")


def test_json_has_a_line_for_each_finding_and_a_summary(shared: ServerProcess) -> None:
    done = run(shared.directory, "renamed", "--store", url(shared), "--json")
    finding, summary = map(json.loads, done.stdout.splitlines())
    assert finding["workflow_id"] == "order-1"
    assert finding["verdict"] == "pauses"
    assert finding["state"] == "WAITING"
    assert summary["summary"]["open"] == 1
    assert summary["summary"]["pauses"] == 1
    assert summary["summary"]["passes"] is False
    removed = run(shared.directory, "removed", "--store", url(shared), "--json")
    assert json.loads(removed.stdout.splitlines()[0])["unclaimed"][0].startswith("step authorize (event ")


STATES = """
@workflow
async def order(id: str):
    await reserve(id)
    await wait_signal("approve")

@step(retry=RetryPolicy(max_attempts=1, on_exhaustion="pause"))
async def exhausts(): raise TransientError("no")

@workflow
async def exhausted(id: str):
    await reserve(id)
    await exhausts()

@workflow
async def cleaning(id: str):
    await reserve(id)
    try:
        await wait_signal("never")
    finally:
        await wait_signal("cleaned")

@workflow
async def other(id: str):
    await wait_signal("never")
"""
STATES_NEW = STATES[: STATES.index("@workflow\nasync def other")].replace("await reserve(id)", "await ship(id)")


def test_each_open_state_is_verified_and_foreign_types_are_counted_apart(server: ServerProcess) -> None:
    server.terminate()
    write(server, "shop", source(STATES))
    write(server, "states", source(STATES_NEW))
    server.start()
    start(server, "exhausted", "e")
    start(server, "other", "o-1", "o-2")
    start(server, "order", "done")
    start(server, "cleaning", "c")

    async def act(client: Client) -> None:
        await client.cancel("c")
        await client.signal("done", "approve")
        async with asyncio.timeout(20):
            while (await client.get("c")).state != workflow_pb2.WORKFLOW_STATE_CANCELLING:
                await asyncio.sleep(0.01)
            await client.get("done", wait=10)

    client_of(server, act)
    for place in (("--server", server.grpc_address), ("--store", url(server))):
        done = run(server.directory, "states", *place)
        assert done.returncode == 1, done.stderr
        lines = done.stdout.splitlines()
        assert "e  exhausted  PAUSED  would stay PAUSED" in lines
        assert "c  cleaning  CANCELLING  would be cancelled without clean-up" in lines
        assert "not served by these modules: 2 of type other" in lines
        assert not any(line.startswith("done ") for line in lines)
        assert lines[-1] == (
            "5 open workflows: 2 would pause, 1 would be cancelled without clean-up, 2 not served by these modules"
        )
    # A type that no module has does not make the command fail.
    write(server, "none", source("@workflow\nasync def unrelated(): pass\n"))
    assert run(server.directory, "none", "--store", url(server)).returncode == 0


RAISING = """
class Odd(BaseException):
    def __str__(self): raise ValueError("no text")

async def boom(error):
    raise error

@workflow
async def order(id: str):
    print("noise on standard output")
    await reserve(id)
    {}
"""
ENDINGS = {
    "exception": ("await authorize(id); await gather(wait_signal('approve'), boom(KeyError('lamp')))", 0,
        ["order-1  order  WAITING  would end", "    the code raised KeyError: 'lamp'", "1 open workflow: 1 would end"]),
    "base_exception": ("await authorize(id); await gather(wait_signal('approve'), boom(Odd()))", 0,
        ["    the code raised Odd"]),
    "exit": ("await authorize(id); await gather(wait_signal('approve'), boom(SystemExit(0)))", 0,
        ["    the code raised SystemExit: 0"]),
    "return_before_the_rest": ("await authorize(id)", 1, ["workflow returned before awaiting"]),
    "exception_before_the_rest": ("raise KeyError('lamp')", 1, ["workflow raised KeyError before awaiting"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_code_that_raises_or_exits_does_not_end_the_command(shared: ServerProcess, name: str) -> None:
    body, code, words = ENDINGS[name]
    write(shared, name, source(AUTHORIZE, RAISING.format(body)))
    done = run(shared.directory, name, "--store", url(shared))
    assert done.returncode == code, done.stderr
    assert all(each in done.stdout for each in words), done.stdout
    assert "noise" not in done.stdout
    assert "Traceback" not in done.stderr


def test_missing_modules_and_servers_have_their_exit_codes(shared: ServerProcess) -> None:
    assert run(shared.directory, "not_there", "--store", url(shared)).returncode == 2
    write(shared, "raises", "raise ValueError('on purpose')")
    assert run(shared.directory, "raises", "--store", url(shared)).returncode == 2
    gone = run(shared.directory, "shop", "--server", f"127.0.0.1:{free_port()}")
    assert gone.returncode == 3, gone.stderr
    assert gone.stderr.startswith("error: ")


def test_variables_name_the_place_and_an_option_overrides_them(shared: ServerProcess) -> None:
    away = f"127.0.0.1:{free_port()}"
    assert run(shared.directory, "kept", MENDFLOW_SERVER=shared.grpc_address).returncode == 0
    assert run(shared.directory, "kept", MENDFLOW_STORE=url(shared)).returncode == 0
    assert run(shared.directory, "kept", "--store", url(shared), MENDFLOW_SERVER=away).returncode == 0
    both = run(shared.directory, "kept", MENDFLOW_STORE=url(shared), MENDFLOW_SERVER=away)
    assert both.returncode == 2
    assert "MENDFLOW_STORE and MENDFLOW_SERVER" in both.stderr


def test_verify_is_a_command_of_mendflow() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        commands = tomllib.load(file)["project"]["entry-points"]["mendflow.commands"]
    assert commands["verify"] == "mendflow_server.cli.verify:verify"
