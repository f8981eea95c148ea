"""Servers for tests: one in this process with accessible parts, and one in its own process, which can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mendflow import Client, Workflow
from mendflow.v1 import operator_service_pb2_grpc, workflow_service_pb2_grpc
from mendflow_server.app import App, Parts
from mendflow_server.settings import Settings, load_settings
from tests.support import workflows as test_workflows
from tests.support.files import whole_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "tests/support"

DEFINITIONS = {thing.name: thing for thing in vars(test_workflows).values() if isinstance(thing, Workflow)}

#: The kernel's range of ports for sockets that name none: a connection could occupy a killed server's port.
EPHEMERAL = 32_768
PORTS = random.SystemRandom()


def python_path() -> str:
    """Return the PYTHONPATH of a process that imports this checkout and the modules of tests/support."""
    return os.pathsep.join([str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")])


def free_port() -> int:
    """Return a port that is free now, and that the kernel assigns only by request."""
    while True:
        port = PORTS.randrange(10_000, EPHEMERAL)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def sqlite_url(directory: Path) -> str:
    """Return the URL of the store of a server in this directory."""
    return f"sqlite:///{directory / 'mendflow.db'}"


def no_dump(_: Path, __: Path) -> None:
    """Do nothing: the store is a SQLite file."""


#: What gives each directory its store, and what copies it to a SQLite file. `all_on_postgres` replaces both.
STORES: dict[str, Any] = {"url": sqlite_url, "dump": no_dump}


def settings_for(directory: Path, **overrides: Any) -> Settings:
    """Return settings for a server of its own in this directory."""
    values: dict[str, Any] = {
        "store": overrides.get("store") or STORES["url"](directory),
        "grpc_address": "127.0.0.1:0",
        "http_address": "127.0.0.1:0",
        "drain_timeout": 2.0,
    }
    return load_settings(**(values | overrides))


def http_health(address: str, path: str = "/health") -> tuple[int, dict[str, Any]]:
    """Return the status and body of the HTTP health, or status 0 when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=2) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError:
        return 0, {}


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    """Wait until the condition is true."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


@dataclass
class Server:
    """A server in this process."""

    app: App
    channel: grpc.aio.Channel
    client: Client

    @property
    def stub(self) -> Any:
        """The stub of the WorkflowService."""
        return workflow_service_pb2_grpc.WorkflowServiceStub(self.channel)

    @property
    def operator(self) -> Any:
        """The stub of the OperatorService."""
        return operator_service_pb2_grpc.OperatorServiceStub(self.channel)

    @property
    def address(self) -> str:
        """The address of its gRPC port."""
        return f"127.0.0.1:{self.app.grpc_port}"


@contextlib.asynccontextmanager
async def serving(directory: Path, **overrides: Any) -> AsyncIterator[Server]:
    """Serve the test workflows in this process."""
    definitions = overrides.pop("definitions", DEFINITIONS)
    clock = overrides.pop("clock", None)
    parts = overrides.pop("parts", Parts() if clock is None else Parts(clock=lambda: clock))
    new_app = overrides.pop("new_app", functools.partial(App, parts=parts))
    async with new_app(settings_for(directory, **overrides), definitions) as app:
        while not app.supervisor.recovered:
            await asyncio.sleep(0.005)
        address = f"127.0.0.1:{app.grpc_port}"
        async with grpc.aio.insecure_channel(address) as channel, Client(address) as client:
            yield Server(app, channel, client)


@dataclass
class ServerProcess:
    """A server in a process of its own. Its ports stay the same after a restart."""

    directory: Path
    modules: tuple[str, ...] = ("workflows",)
    environment: dict[str, str] = field(default_factory=dict)
    #: The disturbances and faults of `tests.support.faults` that each life has.
    faults: tuple[str, ...] = ()
    #: The store's URL, if it is not that of `store`.
    url: str = ""
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def grpc_address(self) -> str:
        """The address of its gRPC port."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_address(self) -> str:
        """The address of its HTTP port."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.directory / "mendflow.db"

    @property
    def store_url(self) -> str:
        """The URL of the store. Some servers have their file elsewhere."""
        if self.url:
            return self.url
        url: str = f"sqlite:///{self.store}" if STORES["url"] is sqlite_url else STORES["url"](self.directory)
        return url

    @property
    def journal(self) -> list[str]:
        """What the steps wrote: one line for each real execution."""
        return whole_lines(self.directory / "journal.txt")

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the server logged."""
        return [json.loads(line) for line in whole_lines(self.directory / "server.log") if line.startswith("{")]

    def start(self, *, wait: bool = True) -> None:
        """Start the server, and wait until it is ready."""
        environment = {
            **os.environ,
            "MENDFLOW_TEST_JOURNAL": str(self.directory / "journal.txt"),
            "MENDFLOW_LOG_FORMAT": "json",
            "PYTHONPATH": python_path(),
            **self.environment,
        }
        root = ["-m", "tests.support.disturbed", ",".join(self.faults)] if self.faults else ["-m", "mendflow.cli"]
        command = [sys.executable, *root, "serve", *self.modules]
        command += ["--store", self.store_url]
        command += ["--grpc-address", self.grpc_address, "--http-address", self.http_address]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.directory)
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until /health says SERVING."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if self.process is not None and self.process.poll() is not None:
                break
            if self.health()[0] == 200:
                return
            time.sleep(0.02)
        text = (self.directory / "server.log").read_text(encoding="utf-8", errors="replace")
        pytest.fail(f"the server did not become ready:\n{text[-4000:]}")

    def health(self, path: str = "/health") -> tuple[int, dict[str, Any]]:
        """Return the status and body of the HTTP health, or status 0 when it does not answer."""
        return http_health(self.http_address, path)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, seconds: float = 30.0) -> int:
        """Send SIGTERM, and return the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def wait_died(self, seconds: float = 20.0) -> int:
        """Wait until the server has died without help."""
        if self.process is None:
            return 0
        return self.process.wait(seconds)


@contextlib.contextmanager
def serving_process(directory: Path, **options: Any) -> Iterator[ServerProcess]:
    """Serve in a process of its own."""
    server = ServerProcess(directory, **options)
    server.start()
    try:
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
