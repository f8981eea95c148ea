"""A server whose code changes from one life to the next: it is killed, and started again on another source."""

from __future__ import annotations

import asyncio
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from mendflow.v1 import workflow_pb2
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from mendflow.v1.event_pb2 import Event

#: The steps that the workflows are made of. Each real execution writes a line.
PRELUDE = """
import asyncio, os
from dataclasses import dataclass
from mendflow import *
from mendflow import RetryPolicy

def effect(name):
    with open(os.environ["MENDFLOW_TEST_JOURNAL"], "a") as journal:
        journal.write(f"{attempt().workflow_id} {name} {attempt().step_key} {attempt().idempotency_key}\\n")

@step
async def a(): effect("a")
@step
async def b(): effect("b")
@step
async def c(): effect("c")
@step
async def n(): effect("n")
@step
async def n1(): effect("n1")
@step
async def n2(): effect("n2")
@step
async def held():
    effect("held")
    if attempt().number == 1:
        await asyncio.sleep(60)
@step
async def backs_off():
    effect("backs_off")
    raise ThrottledError("later", retry_after=3600)
"""


def module_of(bodies: dict[str, str]) -> str:
    """Return the source of a module with these workflows."""
    parts = [PRELUDE]
    for name, body in bodies.items():
        parts.append(f"@workflow\nasync def {name}():\n{textwrap.indent(body, '    ')}\n")
    return "\n".join(parts)


@dataclass
class Deployment:
    """A server whose code changes from one life to the next."""

    server: ServerProcess

    def deploy(self, source: str) -> None:
        """Kill the server, and start one that serves this source."""
        self.server.kill()
        (self.server.directory / f"{self.server.modules[0]}.py").write_text(source, encoding="utf-8")
        self.server.start()

    def run(self, call: Any) -> Any:
        """Run an async function of a client."""

        async def with_client() -> Any:
            async with Client(self.server.grpc_address) as client:
                return await call(client)

        return asyncio.run(with_client())

    def effects(self, workflow_id: str) -> list[tuple[str, str]]:
        """Return each real execution of a step: its name and its idempotency key."""
        lines = (line.split() for line in self.server.journal)
        return [(name, key) for owner, name, _, key in lines if owner == workflow_id]


def deployment(directory: Path, module: str = "flows") -> Deployment:
    """Return a deployment of a module in a directory, with no server yet."""
    return Deployment(ServerProcess(directory, modules=(module,), environment={"PYTHONDONTWRITEBYTECODE": "1"}))


def state_name(workflow: workflow_pb2.Workflow) -> str:
    return workflow_pb2.WorkflowState.Name(workflow.state).removeprefix("WORKFLOW_STATE_")


async def events_of(client: Client, workflow_id: str) -> list[Event]:
    return [event async for event in client.handle(workflow_id).events()]


async def wait_event(client: Client, workflow_id: str, kind: str, *, after: int = 0) -> Event:
    """Return the first event of a kind."""
    async with asyncio.timeout(20):
        async for event in client.handle(workflow_id).watch(after_sequence=after):
            if event.WhichOneof("detail") == kind:
                return event
    pytest.fail(f"{workflow_id} ended without {kind}")
