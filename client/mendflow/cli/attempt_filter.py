"""The filter of `mendflow list --min-attempts`. The server has no such filter, so the command reads histories."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from mendflow.v1 import workflow_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow.client import Client

__all__ = ["MOST_HISTORIES", "OPEN_STATES", "AttemptFilter"]

#: The most histories that one command reads.
MOST_HISTORIES: Final = 500
#: How many histories the command reads at once.
_AT_ONCE: Final = 8
OPEN_STATES: Final = (
    workflow_pb2.WORKFLOW_STATE_PENDING,
    workflow_pb2.WORKFLOW_STATE_RUNNING,
    workflow_pb2.WORKFLOW_STATE_WAITING,
    workflow_pb2.WORKFLOW_STATE_PAUSED,
    workflow_pb2.WORKFLOW_STATE_QUARANTINED,
    workflow_pb2.WORKFLOW_STATE_CANCELLING,
)


class AttemptFilter:
    """Keeps the workflows that have a step with at least so many attempts, lost ones included."""

    def __init__(self, client: Client, least: int) -> None:
        self._client = client
        self._least = least
        #: Whether there were more workflows than histories may be read.
        self.cut = False

    async def keep(self, workflows: AsyncIterator[workflow_pb2.Workflow]) -> AsyncIterator[workflow_pb2.Workflow]:
        """Yield the matching workflows, in order. Read at most `MOST_HISTORIES` histories."""
        chosen: list[workflow_pb2.Workflow] = []
        count = 0
        async for workflow in workflows:
            # WorkflowStarted, N times AttemptStarted, and an end of each attempt but the last.
            if workflow.last_sequence < 2 * self._least:
                continue
            if count == MOST_HISTORIES:
                self.cut = True
                break
            count += 1
            chosen.append(workflow)
            if len(chosen) == _AT_ONCE:
                for each in await self._matching(chosen):
                    yield each
                chosen = []
        for each in await self._matching(chosen):
            yield each

    async def _matching(self, workflows: list[workflow_pb2.Workflow]) -> list[workflow_pb2.Workflow]:
        found = await asyncio.gather(*(self._matches(each.workflow_id) for each in workflows))
        return [workflow for workflow, matches in zip(workflows, found, strict=True) if matches]

    async def _matches(self, workflow_id: str) -> bool:
        async for event in self._client.handle(workflow_id).events():
            if event.HasField("attempt_started") and event.attempt_started.attempt >= self._least:
                return True
        return False
