"""What the services need of the rest of the server."""

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

__all__ = ["EnginePort", "Limits"]


class EnginePort(Protocol):
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

    def start(self, command: StartCommand) -> asyncio.Future[StartResult]:
        """Start a workflow; the future is resolved once that is committed. Cancelling it stops nothing."""

    async def start_and_wait(self, command: StartCommand) -> StartResult:
        """Start a workflow and wait for its end, as long as the command says."""

    async def wait_for_capacity(self) -> None:
        """Apply backpressure: wait until few commits are in flight."""

    async def get(self, workflow_id: str, *, wait: float) -> Snapshot:
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


class Limits(Protocol):
    """The settings that the services check requests against and publish."""

    @property
    def payload_limit(self) -> int:
        """Bytes of an input, an output, a signal's data."""

    @property
    def request_limit(self) -> int:
        """Bytes of a request message."""

    @property
    def history_limit(self) -> int:
        """Events in one history."""

    @property
    def batch_limit(self) -> int:
        """Starts in one batch."""

    @property
    def page_limit(self) -> int:
        """Entries on a page."""

    @property
    def untaken_signals_limit(self) -> int:
        """Signals of one workflow that wait to be taken."""

    @property
    def watch_limit(self) -> int:
        """Watches open at once."""

    @property
    def workflows_in_memory_limit(self) -> int:
        """Workflows in memory at once."""

    @property
    def attempt_slots(self) -> int:
        """Attempts of async steps at once."""

    @property
    def thread_slots(self) -> int:
        """Attempts of plain def steps at once."""

    @property
    def wait_limit(self) -> float:
        """Seconds of the longest wait."""

    @property
    def labels_limit(self) -> int:
        """Labels on one workflow."""

    @property
    def workflow_id_length(self) -> int:
        """Characters in a workflow_id."""
