"""The server processes of a benchmark: a Mendflow server, and a bare gRPC echo as the limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from mendflow_server.runtime.event_loop import run_on_loop
from mendflow_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parent.parent
FILE = "bench.db"
ECHO = "/bench.Echo/Echo"
LISTEN = "/bench.Echo/Listen"
PUBLISH = "/bench.Echo/Publish"


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Running:
    """A Mendflow server."""

    address: str
    process: subprocess.Popen[bytes]

    @property
    def processor(self) -> float:
        """The processor time that the server has used, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> float:
        """The server's resident memory, in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextlib.contextmanager
def mendflow(directory: Path, store: str = "", *, on: str = "", slots: int = 1_000) -> Iterator[Running]:
    """Serve the benchmark's workflows on the SQLite file in a directory, or in a new schema of a PostgreSQL store.

    ``on`` is the URL of a store instead. ``slots`` is how many attempts may run at once.
    """
    url = on or (new_schema(store) if store else f"sqlite:///{directory / FILE}")
    grpc_port, http_port = free_port(), free_port()
    command = [sys.executable, "-m", "mendflow.cli", "serve", "bench.workflows"]
    command += ["--store", url, "--log-level", "warning"]
    command += ["--grpc-address", f"127.0.0.1:{grpc_port}", "--http-address", f"127.0.0.1:{http_port}"]
    with _process(command, MENDFLOW_ATTEMPT_SLOTS=str(slots)) as process:
        _wait_for(f"http://127.0.0.1:{http_port}/health")
        yield Running(f"127.0.0.1:{grpc_port}", process)


def new_schema(url: str) -> str:
    """Make a schema in the database at a URL, and return the URL of a store in it."""
    import asyncpg  # noqa: PLC0415 - only for PostgreSQL

    name = f"bench_{time.time_ns()}"

    async def make() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f"CREATE SCHEMA {name}")
        await connection.close()

    asyncio.run(make())
    return f"{url}{'&' if '?' in url else '?'}search_path={name}"


@contextlib.contextmanager
def echo() -> Iterator[str]:
    """Serve a bare echo on the same kind of event loop, and yield its address."""
    port = free_port()
    with _process([sys.executable, "-m", "bench.servers", str(port)]):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def _process(command: list[str], **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **variables,
    }
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.005)
    raise TimeoutError(f"{url} did not answer")


async def _serve_echo(port: int) -> None:
    async def reply(request: bytes, _: object) -> bytes:
        return request

    listeners: set[asyncio.Queue[bytes]] = set()

    async def listen(_: bytes, __: object) -> AsyncIterator[bytes]:
        heard: asyncio.Queue[bytes] = asyncio.Queue(100)
        listeners.add(heard)
        try:
            yield b""
            while True:
                yield await heard.get()
        finally:
            listeners.discard(heard)

    async def publish(request: bytes, _: object) -> bytes:
        for heard in listeners:
            heard.put_nowait(request)
        return b""

    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(reply),
        "Publish": grpc.unary_unary_rpc_method_handler(publish),
        "Listen": grpc.unary_stream_rpc_method_handler(listen),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    run_on_loop(_serve_echo(int(sys.argv[1])), Settings())
