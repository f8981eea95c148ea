"""What the services need from the rest of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1.payload_pb2 import Payload
    from mendflow.v1.workflow_service_pb2 import WatchWorkflowResponse
    from mendflow_server.engine.requests import Snapshot, StartResult
    from mendflow_server.execution.start_command import StartCommand
    from mendflow_server.store.records import Cursor, Filter, Page, Row

__all__ = ["WorkflowEngine"]


class WorkflowEngine(Protocol):
    """The engine as the services see it. It refuses a request with the classes of `mendflow_server.errors`."""

    @property
    def definitions(self) -> Mapping[str, Workflow[Any, Any]]:
        """The workflow types that this server serves, by name."""

    @property
    def replica_id(self) -> str:
        """The id of this server process."""

    @property
    def start_time(self) -> float:
        """The time at which this process started, in seconds since the epoch."""

    def start(self, command: StartCommand) -> asyncio.Future[StartResult]:
        """Start a workflow, or find the one that has its id.

        The future resolves when the start is committed. If the command waits for the end of the workflow, the future
        may resolve when that wait is over. Cancelling the future stops nothing.
        """

    async def start_and_wait(self, command: StartCommand) -> StartResult:
        """Start a workflow, or find the one that has its id, and wait for its end as long as the command says."""

    async def wait_for_capacity(self) -> None:
        """Apply backpressure: wait until few commits are in flight."""

    async def get(self, workflow_id: str, *, wait: float, uid: str) -> Snapshot:
        """Return a workflow, after waiting at most ``wait`` seconds for its end. ``started`` is always set.

        An empty ``uid`` matches any workflow.
        """

    async def find(self, workflow_id: str) -> Row:
        """Return the row of a workflow. Raise `WorkflowNotFound`."""

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of rows, newest first."""

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Return encoded events in order, at least one if there is one."""

    async def signal(self, workflow_id: str, *, name: str, data: Payload | None, request_id: str, actor: str) -> bool:
        """Commit a signal. Return True when the request_id was already used."""

    async def cancel(self, workflow_id: str, *, reason: str, request_id: str, actor: str) -> Row:
        """Request the cancellation of a workflow. Return its row."""

    async def resume(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """Resume a PAUSED or QUARANTINED workflow. Return its row."""

    async def terminate(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """End a workflow at once, without clean-up. Return its row."""

    async def set_held(self, workflow_id: str, *, held: bool, actor: str) -> Row:
        """Hold a workflow, or release it. Return its row."""

    async def delete(self, workflow_id: str, *, uid: str, actor: str) -> None:
        """Delete a workflow that has ended. An empty ``uid`` matches any workflow."""

    def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int], uid: str
    ) -> AsyncIterator[WatchWorkflowResponse]:
        """Yield the frames of a watch. An empty ``uid`` matches any workflow.

        Raise a refusal only before the first frame, except `Draining` and, for a deleted workflow, `WorkflowNotFound`.
        """
