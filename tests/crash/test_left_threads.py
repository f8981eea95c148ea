"""Code that outlives its attempt and crashes the server: its neighbours must not pay for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from mendflow.v1 import workflow_pb2
from tests.support.servers import serving_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.proof

MODULES = ("tests.support.hanging_workflows",)


@pytest.mark.parametrize("name", ["leaves_a_thread", "leaves_a_thread_and_waits"])
async def test_an_innocent_workflow_is_not_quarantined_for_a_thread_of_a_closed_attempt(
    tmp_path: Path, name: str
) -> None:
    with serving_process(tmp_path, modules=MODULES) as server:
        async with Client(server.grpc_address) as client:
            await client.start("waits_beside", id="innocent")
            for number in range(3):
                handle = await client.start(name, id=f"hangs-{number}")
                async for event in handle.watch():
                    if event.HasField("attempt_failed"):
                        break
                async for event in client.handle("innocent").watch():
                    if event.HasField("attempt_started") and event.attempt_started.attempt == number + 1:
                        break
                (tmp_path / "crash").touch()
                assert await asyncio.to_thread(server.wait_died) == 9
                server.start()
            async for event in client.handle("innocent").watch():
                assert not event.HasField("workflow_quarantined")
                if event.HasField("attempt_started") and event.attempt_started.attempt == 4:
                    break
            assert (await client.get("innocent")).state == workflow_pb2.WORKFLOW_STATE_RUNNING
