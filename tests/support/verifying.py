"""`mendflow verify` in tests: modules with changed code, a server with a waiting order, and the command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from mendflow import Client
from tests.support.command_line import as_text, run_command
from tests.support.servers import ServerProcess, python_path
from tests.support.workflow_states import at_rest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


#: `mendflow verify`, also where the package was installed before the command existed.
VERIFY = [
    sys.executable,
    "-c",
    "from mendflow_server.cli.verify import verify; verify(prog_name='mendflow verify')",
]
SECONDS = 60

PRELUDE = """
import asyncio, os
from mendflow import *

def effect(name):
    with open(os.environ["MENDFLOW_TEST_JOURNAL"], "a") as journal:
        journal.write(name + "\\n")

@step
async def reserve(order: str): effect("reserve")
@step
async def ship(order: str): effect("ship")
async def nothing(): pass
"""
AUTHORIZE = "@step\nasync def authorize(order: str): effect('authorize')\n"
AUTHORISE = "@step\nasync def authorise(order: str): effect('authorise')\n"
KEPT = "@step(name='authorize')\nasync def authorise(order: str): effect('authorise')\n"
OLD = """
@workflow
async def order(id: str):
    await reserve(id)
    await authorize(id)
    await gather(wait_signal("approve"), nothing())
    await ship(id)
"""
RENAMED = OLD.replace("authorize", "authorise")
REMOVED = OLD.replace("    await authorize(id)\n", "")
MARKED = OLD.replace(
    "    await authorize(id)\n",
    "    await ship.with_options(inserted=True, key='first')(id)\n    await authorize(id)\n",
)


def source(*parts: str) -> str:
    return PRELUDE + "".join(parts)


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `mendflow verify` in a directory, piped, until it exits."""
    variables = {"MENDFLOW_TEST_JOURNAL": str(directory / "verified.txt"), **variables}
    return as_text(run_command(["verify", *arguments], variables, directory=directory))


def environment(directory: Path, **variables: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": python_path(),
        # Two versions of a module within one second would share their compiled code.
        "PYTHONDONTWRITEBYTECODE": "1",
        "MENDFLOW_TEST_JOURNAL": str(directory / "verified.txt"),
        **variables,
    }


def write(server: ServerProcess, name: str, text: str) -> None:
    (server.directory / f"{name}.py").write_text(text, encoding="utf-8")


def url(server: ServerProcess) -> str:
    return f"sqlite:///{server.store}"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return each file of a store with its modification time and its content."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.iterdir()
        if path.name.startswith("mendflow.db")
    }


def client_of(server: ServerProcess, call: Any) -> Any:
    async def with_client() -> Any:
        async with Client(server.grpc_address) as client:
            return await call(client)

    return asyncio.run(with_client())


def start(server: ServerProcess, workflow_type: str, *ids: str) -> None:
    async def begin(client: Client) -> None:
        for each in ids:
            await client.start(workflow_type, each, id=each)
        for each in ids:
            await at_rest(client, each)

    client_of(server, begin)


@contextlib.contextmanager
def serving_orders(directory: Path) -> Iterator[ServerProcess]:
    """Run a server with an order that waits for its approval."""
    process = ServerProcess(directory, modules=("shop",), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    write(process, "shop", source(AUTHORIZE, OLD))
    write(process, "renamed", source(AUTHORISE, RENAMED))
    write(process, "kept", source(KEPT, RENAMED))
    write(process, "removed", source(REMOVED))
    write(process, "marked", source(AUTHORIZE, MARKED))
    process.start()
    start(process, "order", "order-1")
    try:
        yield process
    finally:
        process.kill()
