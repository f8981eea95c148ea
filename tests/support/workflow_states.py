"""Waiting for a workflow's state."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.v1 import workflow_pb2

if TYPE_CHECKING:
    from mendflow import Client


async def in_state(client: Any, workflow_id: str, state: int, seconds: float = 5.0) -> None:
    """Wait until a workflow is in that state."""
    limit = time.monotonic() + seconds
    now: Any = None
    while time.monotonic() < limit:
        now = (await client.get(workflow_id)).state
        if now == state:
            return
        await asyncio.sleep(0.02)
    name: Any = workflow_pb2.WorkflowState.Name
    pytest.fail(f"{workflow_id} is {name(now)}, not {name(state)}")


async def at_rest(client: Client, workflow_id: str) -> workflow_pb2.Workflow:
    """Return the workflow once nothing of it runs."""
    async with asyncio.timeout(20):
        while True:
            found = await client.get(workflow_id)
            if found.state not in (workflow_pb2.WORKFLOW_STATE_PENDING, workflow_pb2.WORKFLOW_STATE_RUNNING):
                return found
            await asyncio.sleep(0.01)
