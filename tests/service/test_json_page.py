"""The commands of docs/json.md, with jq or with a part of it on jq's library."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mendflow import SyncClient
from mendflow.v1 import event_pb2
from tests.support.command_process import environment
from tests.support.pages import commands
from tests.support.servers import ROOT, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import ServerProcess

PAGE = ROOT / "docs/json.md"
FLOWS = """
import asyncio

from mendflow import RetryPolicy, step, workflow


@step(retry=RetryPolicy(max_attempts=2, initial_interval=0, on_exhaustion="pause"))
async def reserve(order: int) -> None:
    if order < 0:
        raise OSError(f"no stock for {order}")


@step
async def pack(order: int) -> None:
    await asyncio.sleep(0.1)  # the slowest


@workflow
async def place_order(order: int) -> dict[str, int]:
    await reserve(order)
    await pack(order)
    return {"receipt": order}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with one workflow that succeeded and two that are paused."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "shop.py").write_text(FLOWS)
    with serving_process(directory, modules=("shop",)) as process:
        with SyncClient(process.grpc_address) as client:
            assert client.run("place_order", 1, id="order-1", timeout=20) == {"receipt": 1}
            for number in (1, 2):
                handle = client.start("place_order", -number, id=f"bad-{number}")
                next(handle.watch(kinds=[event_pb2.EVENT_KIND_WORKFLOW_PAUSED]))
        yield process


@pytest.fixture(params=["program", "library"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, server: ServerProcess) -> dict[str, str]:
    """The variables of a shell with the commands `mendflow` and `jq`."""
    programs = {"mendflow": [sys.executable, "-m", "mendflow.cli"]}
    if request.param == "library":
        programs["jq"] = [sys.executable, str(ROOT / "tests/support/stand_in_jq.py")]
    elif shutil.which("jq") is None:
        pytest.skip("needs jq in PATH")
    for name, command in programs.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (tmp_path / name).chmod(0o755)
    return environment(MENDFLOW_SERVER=server.grpc_address, PATH=f"{tmp_path}:{os.environ['PATH']}")


def test_the_commands_answer_their_questions(shell: dict[str, str]) -> None:
    outputs = []
    for command in commands(PAGE.read_text("utf-8")):
        done = subprocess.run(["/bin/sh", "-c", command], env=shell, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
        outputs.append(done.stdout.strip())
    paused, failures, slowest, result, started, counts = outputs
    assert paused.split() == ["bad-2", "bad-1"]
    failure = "bad-{0}  reserve, attempt 2: builtins.OSError: no stock for -{0}"
    assert failures.splitlines() == [failure.format(number) for number in (2, 1)]
    step, took, unit = slowest.split()
    assert (step, unit) == ("pack", "s")
    assert 0.1 <= float(took) < 60
    assert json.loads(result) == {"receipt": 1}
    assert started.splitlines() == ["WORKFLOW_STATE_SUCCEEDED", '{"receipt":2}']
    assert counts.splitlines() == [
        "2  place_order  WORKFLOW_STATE_PAUSED",
        "2  place_order  WORKFLOW_STATE_SUCCEEDED",
    ]
