"""grpcurl and grpc-health-probe against a real server, by the commands of docs/clients/grpcurl.md."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import ROOT, ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (ROOT / "docs/clients/grpcurl.md").read_text(encoding="utf-8")
INSTALL, *BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:50051"
SERVICE = "mendflow.v1.WorkflowService"
# The first build downloads and compiles.
pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which the page's first block has run."""
    if shutil.which("go") is None:
        pytest.skip("needs go in PATH")
    folder = tmp_path_factory.mktemp("tools")
    environment = {**os.environ, "GOBIN": str(folder), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-ec", INSTALL], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return environment


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving_process(tmp_path, modules=("examples.order",)) as server:
        yield server


def sh(tools: dict[str, str], server: ServerProcess, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page against the test's server."""
    here = command.replace(ADDRESS, server.grpc_address)
    return subprocess.run(
        ["sh", "-ec", here], env=tools, cwd=server.directory, capture_output=True, text=True, timeout=60, check=False
    )


def probe(tools: dict[str, str], server: ServerProcess, service: str = "") -> tuple[int, str]:
    """Return the probe's exit code and its output."""
    done = sh(tools, server, f"grpc-health-probe -addr={ADDRESS} -service={service}")
    return done.returncode, done.stdout + done.stderr


def wait_probe(tools: dict[str, str], server: ServerProcess, code: int, seconds: float = 20) -> str:
    """Probe until it exits with the code."""
    limit = time.monotonic() + seconds
    while True:
        found, said = probe(tools, server)
        if found == code:
            return said
        assert time.monotonic() < limit, said


def wait_watched(output: Path, statuses: list[str], seconds: float = 20) -> None:
    """Wait until a watch of the health has printed these, and no others."""
    limit = time.monotonic() + seconds
    while (found := re.findall(r'"status": "(\w+)"', output.read_text(encoding="utf-8"))) != statuses:
        assert time.monotonic() < limit, found
        time.sleep(0.02)


def test_the_page_leads_to_a_watched_workflow(tools: dict[str, str], server: ServerProcess) -> None:
    outputs = []
    for block in BLOCKS:
        done = sh(tools, server, block)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout + done.stderr)
    health, services, message, watched, typed, approved, cancelled = outputs
    assert re.findall(r"status\W+(\w+)", health) == ["SERVING"] * 4
    assert all(name in services for name in (SERVICE, "rpc WatchWorkflow", "place_order", "json_schema"))
    assert "repeated .examples.order.v1." in message
    assert watched.count('"workflow_succeeded"') == 1
    assert [int(number) for number in re.findall(r'"sequence": "(\d+)"', watched)] == list(
        range(1, 1 + watched.count('"sequence"'))
    )
    assert '"@type": "type.googleapis.com/examples.order.v1.PlaceOrderOutput"' in typed
    assert "WORKFLOW_STATE_SUCCEEDED" in typed
    assert "WORKFLOW_STATE_SUCCEEDED" in approved
    assert cancelled.count('"state": "WORKFLOW_STATE_CANCELLED"') == 2
    again = sh(tools, server, BLOCKS[3])
    assert '"started"' not in again.stdout
    assert '"workflow_succeeded"' in again.stdout


def test_an_error_is_printed_as_the_page_shows_it(tools: dict[str, str], server: ServerProcess) -> None:
    shown = re.search(r"^```console\n\$ (.*?)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    done = sh(tools, server, shown[1])
    assert (done.returncode, done.stderr) == (69, shown[2])
    wrong = f'grpcurl -plaintext -d \'{{"workflow_type": "place_order", "input": {{"json": "{{}}"}}}}\' {ADDRESS}'
    done = sh(tools, server, f"{wrong} {SERVICE}/StartWorkflow")
    assert done.returncode == 67
    assert '"reason": "INPUT_MISMATCH"' in done.stderr
    assert '"field": "input.items"' in done.stderr


def test_a_method_can_be_described(tools: dict[str, str], server: ServerProcess) -> None:
    done = sh(tools, server, f"grpcurl -plaintext {ADDRESS} describe {SERVICE}.StartWorkflow")
    assert done.returncode == 0, done.stderr
    assert "rpc StartWorkflow" in done.stdout


def test_the_probe_of_a_service_that_is_not_known(tools: dict[str, str], server: ServerProcess) -> None:
    code, said = probe(tools, server, "unknown")
    assert code == 3
    assert "NotFound" in said


def test_the_probe_of_a_server_that_drains_and_is_gone(tools: dict[str, str], tmp_path: Path) -> None:
    environment = {"MENDFLOW_DRAIN_TIMEOUT": "4"}
    with serving_process(tmp_path, environment=environment) as server:
        assert server.process is not None
        start = '{"workflow_type": "holds", "workflow_id": "subject", "input": {"json": "30.0"}}'
        done = sh(tools, server, f"grpcurl -plaintext -d '{start}' {ADDRESS} {SERVICE}/StartWorkflow")
        assert done.returncode == 0, done.stderr
        command = ["grpcurl", "-plaintext", server.grpc_address, "grpc.health.v1.Health/Watch"]
        with (tmp_path / "watched").open("wb") as output:
            watch = subprocess.Popen(command, env=tools, stdout=output, stderr=subprocess.DEVNULL)
        wait_watched(tmp_path / "watched", ["SERVING"])
        server.process.terminate()
        wait_watched(tmp_path / "watched", ["SERVING", "NOT_SERVING"])
        assert "NOT_SERVING" in wait_probe(tools, server, 4)
        assert probe(tools, server, "liveness") == (0, "status: SERVING\n")
        assert server.process.wait(30) == 0
        assert watch.wait(30) != 0
        assert probe(tools, server)[0] == 2


def test_the_probe_of_a_server_whose_disk_is_full_and_then_is_not(tools: dict[str, str], tmp_path: Path) -> None:
    environment = {"MENDFLOW_COMMIT_AGE_LIMIT": "0.5", "MENDFLOW_PROBE_INTERVAL": "0.2"}
    with serving_process(tmp_path, modules=("examples.order",), environment=environment) as server:
        assert server.process is not None
        unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        # The kernel refuses every write that would make the store's log longer.
        size = server.store.with_name(server.store.name + "-wal").stat().st_size
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
        assert "NOT_SERVING" in wait_probe(tools, server, 4)
        assert probe(tools, server, "liveness") == (0, "status: SERVING\n")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert wait_probe(tools, server, 0) == "status: SERVING\n"
