"""Several servers on one schema of PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from mendflow import Client
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.postgres import Postgres

QUICK = {"MENDFLOW_LEASE": "2", "MENDFLOW_PROBE_INTERVAL": "0.3", "MENDFLOW_GOOD_PROBES": "1"}


@contextlib.asynccontextmanager
async def replicas(
    tmp_path: Path, postgres: Postgres, count: int, *, port: int = 0, **environment: str
) -> AsyncIterator[list[ServerProcess]]:
    """Run servers on one schema. Each has a directory of its own. ``port`` is that of a proxy for the first one."""
    schema = await postgres.new_schema()
    servers = []
    for number in range(count):
        directory = tmp_path / f"replica{number}"
        directory.mkdir()
        url = postgres.url(schema, port=0 if number else port)
        servers.append(ServerProcess(directory, url=url, environment={**QUICK, **environment}))
    try:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
        yield servers
    finally:
        for server in servers:
            if server.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.process.pid, signal.SIGCONT)
            server.kill()


@contextlib.asynccontextmanager
async def clients(servers: list[ServerProcess]) -> AsyncIterator[list[Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(server.grpc_address)) for server in servers]


def logged(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in server.log if line["event"] == event]


def pid(server: ServerProcess) -> int:
    assert server.process is not None
    return server.process.pid


@contextlib.asynccontextmanager
async def deployed(
    tmp_path: Path, postgres: Postgres, sources: Sequence[str], *, start: int | None = None
) -> AsyncIterator[list[ServerProcess]]:
    """Run a server for each source of a module, or only the first ones."""
    url = postgres.url(await postgres.new_schema())
    servers = []
    for number, source in enumerate(sources):
        directory = tmp_path / f"replica{number}"
        directory.mkdir()
        (directory / "flows.py").write_text(source, encoding="utf-8")
        environment = {**QUICK, "PYTHONDONTWRITEBYTECODE": "1"}
        servers.append(ServerProcess(directory, modules=("flows",), url=url, environment=environment))
    try:
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers[:start]))
        yield servers
    finally:
        for server in servers:
            server.kill()
