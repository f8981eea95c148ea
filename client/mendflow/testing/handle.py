"""A test's handle to one workflow, for tests with asyncio."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from mendflow import errors
from mendflow.cli.event_text import state_name
from mendflow.client.checks import checked
from mendflow.client.client import encode
from mendflow.histories import history_text
from mendflow.testing.history import WorkflowHistory
from mendflow.testing.replaying import replay
from mendflow.v1 import operator_service_pb2, workflow_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mendflow.authoring.workflow import Workflow
    from mendflow.testing.replaying import Replay
    from mendflow.v1 import event_pb2

__all__ = ["AsyncHandle", "StillOpen"]

R = TypeVar("R")


def stopped() -> errors.MendflowError:
    """Return the error for a call after the end of its test."""
    return errors.MendflowError("the engine of this test has stopped; call it inside the `with` block of WorkflowTest")


class StillOpen(AssertionError):
    """A workflow has not ended, or the engine has not come to rest. The message says what it does."""


class Verbs(Protocol):
    """The part of `AsyncEnvironment` that a handle uses."""

    async def call(self, verb: str, request: Any) -> Any:
        """Call an rpc."""

    async def until_end(self, workflow_id: str, timeout: float, describe: Callable[[], Awaitable[str]]) -> None:
        """Wait for a workflow's end."""

    async def events(self, workflow_id: str) -> list[event_pb2.Event]:
        """Return the committed events of a workflow."""

    def problems(self) -> list[str]:
        """Return why fakes could not be used."""


class AsyncHandle(Generic[R]):
    """One workflow of a test."""

    def __init__(self, environment: Verbs, workflow_id: str, workflow: Workflow[Any, R]) -> None:
        self._environment = environment
        self._workflow = workflow
        self.id = workflow_id

    def __repr__(self) -> str:
        return f"<workflow {self.id}>"

    async def result(self, timeout: float = 30.0) -> R:
        """Wait for the workflow's end and return its result. Skip the time whenever nothing else happens.

        Raise `mendflow.errors.WorkflowFailed`, `WorkflowCancelled` or `WorkflowTerminated` if it has no result. Raise
        `StillOpen` if it waits for what the test does not send, or after ``timeout`` real seconds. Raise
        AssertionError if a fake has too few outcomes.
        """
        await self._environment.until_end(self.id, timeout, self._story)
        problems = self._environment.problems()
        if problems:
            msg = f"{'; '.join(problems)}\n{await self._story()}"
            raise AssertionError(msg)
        found = await self._get()
        if found.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
            return self._workflow.output_type.decode(found.output if found.HasField("output") else None)
        if found.state == workflow_pb2.WORKFLOW_STATE_FAILED:
            raise errors.WorkflowFailed(self.id, found.failure)
        if found.state == workflow_pb2.WORKFLOW_STATE_CANCELLED:
            raise errors.WorkflowCancelled(self.id)
        raise errors.WorkflowTerminated(self.id)

    async def signal(self, name: str, data: Any = None) -> None:
        """Send a signal.

        Raise `mendflow.errors.InvalidRequest` if the workflow declares other signals only, or if the data does not
        match the declared type.
        """
        request = workflow_service_pb2.SignalWorkflowRequest(
            workflow_id=self.id, name=checked("name", name), request_id=uuid.uuid4().hex
        )
        if data is not None:
            request.data.CopyFrom(encode(data))
        await self._environment.call("SignalWorkflow", request)

    async def cancel(self, reason: str = "") -> None:
        """Ask the workflow to clean up and end."""
        await self._environment.call(
            "CancelWorkflow", workflow_service_pb2.CancelWorkflowRequest(workflow_id=self.id, reason=reason)
        )

    async def resume(self, reason: str = "") -> None:
        """Resume a PAUSED or QUARANTINED workflow."""
        await self._environment.call(
            "ResumeWorkflow", operator_service_pb2.ResumeWorkflowRequest(workflow_id=self.id, reason=reason)
        )

    async def terminate(self, reason: str = "") -> None:
        """End the workflow at once, without clean-up."""
        await self._environment.call(
            "TerminateWorkflow", operator_service_pb2.TerminateWorkflowRequest(workflow_id=self.id, reason=reason)
        )

    async def state(self) -> str:
        """Return the workflow's state, such as "WAITING"."""
        return state_name((await self._get()).state)

    async def history(self) -> WorkflowHistory:
        """Return the events that are committed."""
        return WorkflowHistory(self.id, self._workflow.name, await self._environment.events(self.id))

    async def replay(self) -> Replay:
        """Replay the history against the workflow's code; see `mendflow.testing.replay`. Raise `ReplayFailed`."""
        events = await self._environment.events(self.id)
        return replay(self._workflow, json.loads(history_text(self.id, self._workflow.name, events)))

    async def _get(self) -> workflow_pb2.Workflow:
        reply = await self._environment.call(
            "GetWorkflow", workflow_service_pb2.GetWorkflowRequest(workflow_id=self.id)
        )
        found: workflow_pb2.Workflow = reply.workflow
        return found

    async def _story(self) -> str:
        found = await self._get()
        reason = f", {found.explanation}" if found.explanation else ""
        return f"{self.id} is {state_name(found.state)}{reason}\n{await self.history()}"
