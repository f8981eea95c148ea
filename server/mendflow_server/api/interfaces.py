"""What the services need of the rest of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mendflow_server.engine.requests import Begun, Ending, StartCommand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1.payload_pb2 import Payload
    from mendflow.v1.workflow_service_pb2 import WatchWorkflowResponse
    from mendflow_server.store.interface import Cursor, Filter, Page, Row

__all__ = ["Begun", "Ending", "StartCommand", "WorkflowEngine"]


class WorkflowEngine(Protocol):
    """The engine as the services see it. Its refusals are those of `mendflow_server.errors`."""

    @property
    def definitions(self) -> Mapping[str, Workflow[Any, Any]]:
        """The workflow types served, by name."""

    @property
    def replica_id(self) -> str:
        """The name of this process."""

    @property
    def start_time(self) -> float:
        """When it started, in seconds since the epoch."""

    def start(self, command: StartCommand) -> asyncio.Future[Begun]:
        """Start a workflow: what began, once that is on disk and, where it may be, the command's wait is over.

        Cancelling the future stops nothing.
        """

    async def room(self) -> None:
        """Let what is under way come first, before more is begun of what is in no hurry."""

    async def wait_end(self, row: Row, seconds: float, /) -> Ending:
        """Wait for the end; returns earlier on the end or a drain."""

    async def get(self, workflow_id: str, *, wait: float) -> Ending:
        """Answer a workflow, its end awaited for at most ``wait`` seconds; ``started`` is always set."""

    async def find(self, workflow_id: str) -> Row:
        """Answer a workflow's row."""

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Answer a page of rows, newest first."""

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Answer events in order; at least one if there is one."""

    async def signal(self, workflow_id: str, *, name: str, data: Payload | None, request_id: str, actor: str) -> bool:
        """Put a signal on disk; True when the request_id had been seen before."""

    async def cancel(self, workflow_id: str, *, reason: str, request_id: str, actor: str) -> Row:
        """Ask a workflow to end."""

    async def resume(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """Let a stopped workflow go on."""

    async def terminate(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """End a workflow at once."""

    def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int]
    ) -> AsyncIterator[WatchWorkflowResponse]:
        """Answer the frames; refusals are raised before the first one."""
