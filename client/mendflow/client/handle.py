"""A caller's handle to one workflow."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from mendflow import errors
from mendflow.client.watch import SILENCE, watch
from mendflow.v1 import workflow_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection

    from mendflow.client.rpc import Caller
    from mendflow.codec import ValueType
    from mendflow.v1 import event_pb2, payload_pb2, workflow_service_pb2_grpc

__all__ = ["WorkflowHandle"]

R = TypeVar("R")

#: How long one call waits for a workflow's end, in seconds. After that the client sends another call.
WAIT: Final = 30.0
#: The time that a call has in addition to its requested wait, in seconds.
MARGIN: Final = 10.0
#: The shortest and the longest pause before a retry after an early answer, in seconds.
DRAIN_PAUSE: Final = (0.2, 0.5)
_OPEN_STATES = frozenset(
    {
        workflow_pb2.WORKFLOW_STATE_PENDING,
        workflow_pb2.WORKFLOW_STATE_RUNNING,
        workflow_pb2.WORKFLOW_STATE_WAITING,
        workflow_pb2.WORKFLOW_STATE_PAUSED,
        workflow_pb2.WORKFLOW_STATE_QUARANTINED,
        workflow_pb2.WORKFLOW_STATE_CANCELLING,
    }
)


class ClientVerbs(Protocol):
    """The part of `Client` that a handle uses."""

    caller: Caller
    stub: workflow_service_pb2_grpc.WorkflowServiceAsyncStub

    async def get(self, id: str, *, wait: float | None = ...) -> workflow_pb2.Workflow:
        """Return the workflow."""

    async def _get(self, id: str, *, wait: float | None, uid: str) -> workflow_pb2.Workflow:
        """Return the workflow, if it has this uid. An empty ``uid`` is any."""

    async def signal(
        self, id: str, name: str, data: Any = ..., *, request_id: str | None = ..., allow_undeclared: bool = ...
    ) -> bool:
        """Send a signal. Return False if it is a duplicate."""

    async def cancel(self, id: str, reason: str = ...) -> workflow_pb2.Workflow:
        """Cancel the workflow."""

    async def resume(self, id: str, reason: str = ...) -> workflow_pb2.Workflow:
        """Resume the workflow."""

    async def terminate(self, id: str, reason: str = ...) -> workflow_pb2.Workflow:
        """Terminate the workflow."""

    async def hold(self, id: str) -> workflow_pb2.Workflow:
        """Hold the workflow."""

    async def release(self, id: str) -> workflow_pb2.Workflow:
        """Release the workflow."""

    async def delete(self, id: str) -> bool:
        """Delete the workflow."""

    def decode(self, output_type: ValueType[Any] | None, payload: payload_pb2.Payload | None) -> Any:
        """Return a payload as a value of this type."""


class WorkflowHandle(Generic[R]):
    """A workflow by its id. ``started`` is True if the call that returned this handle started the workflow."""

    def __init__(
        self, client: ClientVerbs, workflow_id: str, output_type: ValueType[R] | None, *, started: bool, uid: str = ""
    ) -> None:
        self._client = client
        self._output_type = output_type
        self.id = workflow_id
        self.started = started
        #: The uid that a start returned. A workflow that gets the id after a delete has another one.
        self._uid = uid
        #: How many seconds a watch retries an unavailable server. None: no limit.
        self.retry_for = client.caller.retry_for

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"

    def watch(
        self,
        after_sequence: int = 0,
        *,
        kinds: Collection[int] = (),
        on_connection: Callable[[bool, str], None] | None = None,
        silence: float = SILENCE,
    ) -> AsyncGenerator[event_pb2.Event, None]:
        """Yield the workflow's events after a sequence, until the workflow ends.

        Every event comes once and in order, also across restarts of the server.
        Raise `WorkflowNotFound` if the workflow is deleted meanwhile.
        ``kinds`` are values of ``mendflow.v1.EventKind``; an empty collection
        means all kinds. The client calls ``on_connection`` with (False, reason)
        when it loses the server, and with (True, "") when it has reconnected. A
        slow reader buffers only what the connection buffers. After ``silence``
        seconds without a frame the client opens a new stream. Closing the
        iterator cancels the call.
        """
        return watch(
            self._client.caller,
            self._client.stub,
            self.id,
            uid=self._uid,
            after_sequence=after_sequence,
            kinds=kinds,
            on_connection=on_connection,
            silence=silence,
            retry_for=self.retry_for,
        )

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the workflow's end and return its result.

        Raise `WorkflowFailed`, `WorkflowCancelled` or `WorkflowTerminated` if it
        has no result, and `WorkflowNotFound` if it is deleted meanwhile. Raise
        `DeadlineExceeded` after ``timeout`` seconds (None: no limit); the
        workflow continues.
        """
        result: R = await within(timeout, self.id, self._result())
        return result

    async def _result(self, workflow: workflow_pb2.Workflow | None = None) -> R:
        loop = asyncio.get_running_loop()
        uid = self._uid if workflow is None else workflow.uid
        while workflow is None or workflow.state in _OPEN_STATES:
            called = loop.time()
            # The first answer comes at once, so that the uid is known before the server may become unavailable.
            workflow = await self._client._get(self.id, wait=WAIT if uid else None, uid=uid)  # noqa: SLF001 - same package
            if not uid:
                uid = workflow.uid
                continue
            if workflow.state in _OPEN_STATES and loop.time() - called < WAIT / 2:
                # A server that is shutting down answers at once. Pause before the retry.
                await asyncio.sleep(random.uniform(*DRAIN_PAUSE))  # noqa: S311 - jitter
        return self.outcome(workflow)

    def outcome(self, workflow: workflow_pb2.Workflow) -> R:
        """Return the result of an ended workflow.

        Raise `WorkflowFailed`, `WorkflowCancelled` or `WorkflowTerminated` if it has none.
        """
        if workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
            output = workflow.output if workflow.HasField("output") else None
            value: R = self._client.decode(self._output_type, output)
            return value
        if workflow.state == workflow_pb2.WORKFLOW_STATE_FAILED:
            raise errors.WorkflowFailed(workflow.workflow_id, workflow.failure)
        if workflow.state == workflow_pb2.WORKFLOW_STATE_CANCELLED:
            raise errors.WorkflowCancelled(workflow.workflow_id)
        raise errors.WorkflowTerminated(workflow.workflow_id)

    async def get(self, wait: float | None = None) -> workflow_pb2.Workflow:
        """Return the workflow. With ``wait``, return when it has ended, or after that many seconds."""
        return await self._client.get(self.id, wait=wait)

    async def events(self) -> AsyncGenerator[event_pb2.Event, None]:
        """Yield the workflow's events up to now, oldest first."""
        token = ""
        while True:
            request = workflow_service_pb2.ListEventsRequest(workflow_id=self.id, page_size=1_000, page_token=token)
            page = await self._client.caller.call_with_retry(self._client.stub.ListEvents, request)
            for event in page.events:
                yield event
            token = page.next_page_token
            if not token:
                return

    async def signal(
        self, name: str, data: Any = None, *, request_id: str | None = None, allow_undeclared: bool = False
    ) -> bool:
        """Send a signal. Return False if the workflow already has a signal with this ``request_id``.

        With ``allow_undeclared``, send one that the workflow's type does not declare; see `Client.signal`.
        """
        return await self._client.signal(self.id, name, data, request_id=request_id, allow_undeclared=allow_undeclared)

    async def cancel(self, reason: str = "") -> workflow_pb2.Workflow:
        """Ask the workflow to clean up and end."""
        return await self._client.cancel(self.id, reason)

    async def resume(self, reason: str = "") -> workflow_pb2.Workflow:
        """Resume a PAUSED or QUARANTINED workflow."""
        return await self._client.resume(self.id, reason)

    async def terminate(self, reason: str = "") -> workflow_pb2.Workflow:
        """End the workflow at once, without clean-up."""
        return await self._client.terminate(self.id, reason)

    async def hold(self) -> workflow_pb2.Workflow:
        """Keep the workflow from being deleted until `release`."""
        return await self._client.hold(self.id)

    async def release(self) -> workflow_pb2.Workflow:
        """Release the held workflow."""
        return await self._client.release(self.id)

    async def delete(self) -> bool:
        """Delete the workflow, which has ended. Return False if there is none with this id."""
        return await self._client.delete(self.id)


async def within(timeout: float | None, workflow_id: str, work: Any) -> Any:
    """Await ``work``, or raise `DeadlineExceeded` after ``timeout`` seconds."""
    try:
        async with asyncio.timeout(timeout):
            return await work
    except TimeoutError:
        msg = f"workflow {workflow_id} has not ended after {timeout:g} s; it continues to run"
        raise errors.DeadlineExceeded(msg, code="DEADLINE_EXCEEDED") from None
