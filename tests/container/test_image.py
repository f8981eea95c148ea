"""The image builds, serves both ports, runs its examples, keeps its volume, and stops cleanly on SIGTERM."""

from __future__ import annotations

import json
import re
import shlex
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow.v1 import payload_pb2, workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc
from tests.container.manifest import probed_services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.container.engine import Container, Engine

# Pulling and building the image is slow.
pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
START_LIMIT = 30.0
WAITING = """
from mendflow import step, wait_signal, workflow


@step
async def greet(name: str) -> str:
    return f"Good morning, {name}"


@workflow
async def greeting() -> str:
    return await greet(await wait_signal("name", str))
"""


@contextmanager
def serving(
    engine: Engine, image: str, volume: str, *options: str, command: tuple[str, ...] = ()
) -> Iterator[Container]:
    """Run the image with fewer rights than the Deployment gives it: only /data is writable, and not /tmp."""
    container = engine.start(
        image,
        *("--volume", f"{volume}:/data", "--publish", "127.0.0.1::3000", "--publish", "127.0.0.1::50051"),
        *engine.read_only,
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *options,
        command=command,
    )
    try:
        wait_until_healthy(container)
        yield container
    finally:
        container.remove()


def wait_until_healthy(container: Container) -> None:
    wait_until(lambda: healthy(container), container)


def wait_until(holds: Callable[[], bool], container: Container) -> None:
    limit = time.monotonic() + START_LIMIT
    while not holds():
        assert container.running(), container.logs()
        assert time.monotonic() < limit, container.logs()
        time.sleep(0.1)


def healthy(container: Container) -> bool:
    try:
        with urllib.request.urlopen(f"http://{container.address(3000)}/health", timeout=2):
            return True
    except OSError:
        return False


@contextmanager
def workflows(container: Container) -> Iterator[workflow_service_pb2_grpc.WorkflowServiceStub]:
    with grpc.insecure_channel(container.address(50051)) as channel:
        yield workflow_service_pb2_grpc.WorkflowServiceStub(channel)


def health_check(config: dict[str, Any]) -> list[str]:
    """Return the command of HEALTHCHECK. docker writes it into the image's Config, podman next to it."""
    kind: str
    command: list[str]
    kind, *command = (config["Config"].get("Healthcheck") or config["Healthcheck"])["Test"]
    assert kind == "CMD"
    return command


def test_the_image_says_what_it_is(engine: Engine, image: str) -> None:
    config = engine.image(image)["Config"]
    assert config["User"] == "10001:10001"
    assert set(config["ExposedPorts"]) == {"3000/tcp", "50051/tcp"}
    assert set(config["Volumes"]) == {"/data"}
    # Without a shell between, or SIGTERM would never reach the server.
    assert config["Entrypoint"] == ["mendflow"]
    assert config["Cmd"] == ["serve", "examples.campaign", "examples.order"]


def test_the_examples_are_served_beyond_loopback(engine: Engine, image: str, volume: str) -> None:
    with serving(engine, image, volume) as container:
        with grpc.insecure_channel(container.address(50051)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its stubs do not know its methods
            for service in probed_services():
                status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
                assert status == health_pb2.HealthCheckResponse.SERVING, service
        with workflows(container) as stub:
            served = stub.ListWorkflowTypes(workflow_service_pb2.ListWorkflowTypesRequest(), timeout=5)
        assert "send_campaign" in {workflow_type.name for workflow_type in served.workflow_types}
        assert container.succeeds(*health_check(engine.image(image)))


def test_the_campaign_runs_as_readme_says(engine: Engine, image: str, volume: str) -> None:
    mail_server, start = (
        shlex.split(command) for command in re.findall(r"^docker exec .*engine (.+)$", README, re.MULTILINE)
    )
    with serving(engine, image, volume) as container:
        container.background(*mail_server)
        connect = "import socket; socket.create_connection(('127.0.0.1', 2525)).close()"
        wait_until(lambda: container.succeeds("python", "-c", connect), container)
        container.output(*start)
        sent = container.output("cat", "/data/mailbox.jsonl").splitlines()
    assert "ada@lovelace.example" in {json.loads(line)["recipients"][0] for line in sent}


def test_the_demo_runs_in_the_image(engine: Engine, image: str, volume: str) -> None:
    with serving(engine, image, volume) as container:
        assert "SIGKILL" in container.output("python", "-m", "examples.demo")


def test_the_order_runs_with_its_own_input(engine: Engine, image: str, volume: str) -> None:
    with serving(engine, image, volume) as container:
        container.output("mendflow", "start", "place_order", "--input", "@examples/order.json", "--id", "order-17")
        container.output("mendflow", "signal", "order-17", "approve", "--data", '{"by": "Ada"}')
        with workflows(container) as stub:
            ended = stub.GetWorkflow(
                workflow_service_pb2.GetWorkflowRequest(workflow_id="order-17", wait=Duration(seconds=60)), timeout=70
            ).workflow
        assert "piano" in ended.failure.message, ended
        read = "from examples.order import entries; print(*entries('ledger.db'), sep='\\n')"
        lines = container.output("python", "-c", read).splitlines()
    assert lines[0] == "('reserved', 'lamp', 2)"
    assert lines[-1] == "('released', 'lamp', 2)"


def test_the_health_check_fails_where_no_server_answers(engine: Engine, image: str) -> None:
    container = engine.start(image, "--entrypoint", "sleep", command=("600",))
    try:
        assert container.succeeds("true")
        assert not container.succeeds(*health_check(engine.image(image)))
    finally:
        container.kill()
        container.remove()


def test_a_workflow_outlives_containers(engine: Engine, image: str, volume: str, tmp_path: Path) -> None:
    """Mount own code at /app, drain with exit status 0, send SIGKILL, and reach the workflow's end."""
    tmp_path.chmod(0o755)
    (tmp_path / "greetings.py").write_text(WAITING)
    (tmp_path / "greetings.py").chmod(0o644)
    own_code: dict[str, Any] = {"command": ("serve", "greetings")}
    mounted = ("--volume", f"{tmp_path}:/app:ro")
    with serving(engine, image, volume, *mounted, **own_code) as drained:
        with workflows(drained) as stub:
            stub.StartWorkflow(
                workflow_service_pb2.StartWorkflowRequest(workflow_id="morning", workflow_type="greeting"), timeout=10
            )
        assert drained.stop() == 0, drained.logs()
    with serving(engine, image, volume, *mounted, **own_code) as killed:
        with workflows(killed) as stub:
            stub.SignalWorkflow(
                workflow_service_pb2.SignalWorkflowRequest(
                    workflow_id="morning", name="name", data=payload_pb2.Payload(json='"Ada"')
                ),
                timeout=10,
            )
        killed.kill()
    with serving(engine, image, volume, *mounted, **own_code) as last, workflows(last) as stub:
        ended = stub.GetWorkflow(
            workflow_service_pb2.GetWorkflowRequest(workflow_id="morning", wait=Duration(seconds=20)), timeout=30
        ).workflow
        assert ended.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED, last.logs()
        assert ended.output.json == '"Good morning, Ada"'
