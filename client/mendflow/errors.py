"""Every error that Mendflow raises into its users' code.

::

    MendflowError
    ├── NotInWorkflow             an authoring verb was used where it cannot work
    ├── NotDurable                workflow code awaited something that cannot be replayed
    ├── NotAwaited                workflow code made a call and forgot its await
    ├── DefinitionError           a decorated function cannot be a workflow or a step
    ├── PayloadError              a value does not fit its type
    │   └── MessageNotExported    it came as a message, and its type has none
    ├── StepFailed                a step has failed for good (raised at its call)
    ├── SignalTimeout             a signal did not come in time (raised at wait_signal)
    ├── TransientError            raise it in a step: try again
    │   └── ThrottledError        ... but not before retry_after
    ├── PermanentError            raise it in a step: do not try again
    ├── RequestError              the server refused or could not take a call
    │   ├── InvalidRequest        the caller's fault: a field, with its violations
    │   ├── WorkflowNotFound
    │   ├── AlreadyStarted        the id is taken by another type or input
    │   ├── WrongState            the workflow has ended, or was never stopped
    │   ├── SequenceOutOfRange    a watch from where there is nothing
    │   ├── LimitExceeded         a limit of the server; retry_after says when again
    │   ├── ServerUnavailable     draining, recovering, no store, not reachable
    │   ├── DeadlineExceeded      the call's timeout passed; the workflow goes on
    │   └── ServerFault           the server's own fault
    └── WorkflowEndedError        result(): the workflow has ended without a result
        ├── WorkflowFailed        .failure says why
        ├── WorkflowCancelled
        └── WorkflowTerminated
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mendflow.v1 import failure_pb2

__all__ = [
    "AlreadyStarted",
    "DeadlineExceeded",
    "DefinitionError",
    "InvalidRequest",
    "LimitExceeded",
    "MendflowError",
    "MessageNotExported",
    "NotAwaited",
    "NotDurable",
    "NotInWorkflow",
    "PayloadError",
    "PermanentError",
    "RequestError",
    "SequenceOutOfRange",
    "ServerFault",
    "ServerUnavailable",
    "SignalTimeout",
    "StepFailed",
    "ThrottledError",
    "TransientError",
    "WorkflowCancelled",
    "WorkflowEndedError",
    "WorkflowFailed",
    "WorkflowNotFound",
    "WorkflowTerminated",
    "WrongState",
]


class MendflowError(Exception):
    """The root of all errors raised by Mendflow."""


class NotInWorkflow(MendflowError):
    """An authoring verb was used where it cannot work."""


class NotDurable(MendflowError):
    """Workflow code awaited something that cannot be replayed."""


class NotAwaited(MendflowError):
    """Workflow code made a call and forgot its await."""


class DefinitionError(MendflowError):
    """A decorated function cannot be a workflow or a step."""


class PayloadError(MendflowError):
    """A value does not fit its type.

    ``problems`` has a (path, description) pair for each place, the path as in
    ``items[3].price`` and empty for the value as a whole.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class MessageNotExported(PayloadError):
    """A value came as a message, and its type has none; ``command`` makes it."""

    def __init__(self, workflow: str, command: str) -> None:
        super().__init__(
            f"workflow {workflow} takes JSON: its types are exported as messages by `{command}`",
            [("", f"its type is not exported as a message: {command}")],
        )
        self.workflow = workflow
        self.command = command


class StepFailed(MendflowError):
    """A step has failed for good; raised at its call inside a workflow."""

    def __init__(self, step_key: str, failure: failure_pb2.Failure) -> None:
        super().__init__(f"step {step_key} failed: {failure.type}: {failure.message}")
        self.step_key = step_key
        self.failure = failure


class SignalTimeout(MendflowError):
    """A signal did not come in time."""

    def __init__(self, name: str) -> None:
        super().__init__(f"signal {name!r} did not come in time")
        self.name = name


class TransientError(MendflowError):
    """Raise it in a step: this may go away by itself, try again."""


class ThrottledError(TransientError):
    """Raise it in a step: the callee asks for less; ``retry_after`` is in seconds."""

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(MendflowError):
    """Raise it in a step: trying again is of no use."""


class RequestError(MendflowError):
    """The server refused or could not take a call.

    ``code`` is the gRPC status code's name, ``reason`` a name of
    ``mendflow.v1.ErrorReason`` without its prefix (empty when the status
    carried none), ``metadata`` the ErrorInfo's, ``violations`` the fields at
    fault as (field, description), ``retry_after`` seconds or None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after


class InvalidRequest(RequestError):
    """A field of the request is at fault; ``violations`` names each."""


class WorkflowNotFound(RequestError):
    """There is no workflow of this id."""


class AlreadyStarted(RequestError):
    """The id is taken by a workflow of another type or input."""


class WrongState(RequestError):
    """The workflow has ended, or was never stopped."""


class SequenceOutOfRange(RequestError):
    """There is no event at the sequence asked for."""


class LimitExceeded(RequestError):
    """A limit of the server is reached."""


class ServerUnavailable(RequestError):
    """The server drains, recovers, has no store or cannot be reached."""


class DeadlineExceeded(RequestError):
    """The call's timeout passed. The workflow goes on."""


class ServerFault(RequestError):
    """A fault of the server's own."""


class WorkflowEndedError(MendflowError):
    """The workflow has ended without a result."""

    def __init__(self, workflow_id: str, message: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowFailed(WorkflowEndedError):
    """The workflow failed; ``failure`` says why."""

    def __init__(self, workflow_id: str, failure: failure_pb2.Failure) -> None:
        super().__init__(workflow_id, f"workflow {workflow_id} failed: {failure.type}: {failure.message}")
        self.failure = failure


class WorkflowCancelled(WorkflowEndedError):
    """The workflow was cancelled."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id, f"workflow {workflow_id} was cancelled")


class WorkflowTerminated(WorkflowEndedError):
    """The workflow was terminated by an operator."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id, f"workflow {workflow_id} was terminated")
