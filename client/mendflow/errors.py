"""The errors that Mendflow raises into user code.

::

    MendflowError
    ├── NotInWorkflow             an authoring function was called outside a workflow
    ├── NotDurable                workflow code awaited something that cannot be replayed
    ├── NotAwaited                workflow code made a call and did not await it
    ├── DefinitionError           a decorated function cannot be a workflow or a step
    ├── PayloadError              a value does not match its type
    │   └── MessageNotExported    a message arrived where the type takes JSON
    ├── StepFailed                a step failed and has no retries left (raised at its call)
    ├── SignalTimeout             no signal arrived before the timeout (raised at wait_signal)
    ├── TransientError            raise it in a step to request a retry
    │   └── ThrottledError        ... but not before retry_after
    ├── PermanentError            raise it in a step to prevent a retry
    ├── RequestError              the server refused a call or did not answer it
    │   ├── InvalidRequest        a field is malformed; .violations lists them
    │   ├── WorkflowNotFound
    │   ├── AlreadyStarted        a workflow of another type or input has the id
    │   ├── WrongState            the workflow has ended, or is not stopped
    │   ├── SequenceOutOfRange    a watch starts where there are no events
    │   ├── LimitExceeded         a server limit is reached; retry after .retry_after
    │   ├── ServerUnavailable     the server is shutting down, recovering, without its store, silent or unreachable
    │   ├── DeadlineExceeded      the call's timeout passed; the workflow continues
    │   └── ServerFault           internal error in the server
    └── WorkflowEndedError        result(): the workflow ended without a result
        ├── WorkflowFailed        .failure has the reason
        ├── WorkflowCancelled
        └── WorkflowTerminated

They can be copied and pickled, so they also come out of a process pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def reduce_error(error: BaseException) -> tuple[Any, ...]:
    """Return how to copy and pickle an error whose class has another ``__init__`` than Exception.

    Python would call ``__init__`` with the message alone. Use this function as the ``__reduce__`` of a class.
    """
    # A user's class may also inherit from OSError, ImportError and others, which have state of their own.
    builtin: Any = next(base for base in type(error).__mro__ if base.__module__ == "builtins")
    _, args, *state = builtin.__reduce__(error)
    return _restored, (type(error), args, error.args), *state


def _restored(cls: type[BaseException], new_args: tuple[Any, ...], args: tuple[Any, ...]) -> BaseException:
    error = cls.__new__(cls, *new_args)
    error.args = args
    return error


class MendflowError(Exception):
    """The base class of all errors that Mendflow raises."""

    __reduce__ = reduce_error


class NotInWorkflow(MendflowError):
    """An authoring function was called outside a workflow, or a workflow called by hand waits for a missing signal."""


class NotDurable(MendflowError):
    """Workflow code awaited something that cannot be replayed."""


class NotAwaited(MendflowError):
    """Workflow code made a call and did not await it."""


class DefinitionError(MendflowError):
    """A decorated function cannot be a workflow or a step."""


class PayloadError(MendflowError):
    """A value does not match its type.

    ``problems`` has a (path, description) pair for each problem. A path reads
    like ``items[3].price``; an empty path means the whole value.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class MessageNotExported(PayloadError):
    """A message arrived, but its workflow type takes JSON; ``command`` exports the messages."""

    def __init__(self, workflow: str, command: str) -> None:
        super().__init__(
            f"workflow {workflow} takes JSON, because its types are not exported; to export them, run `{command}`",
            [("", f"the type is not exported as a message; run `{command}`")],
        )
        self.workflow = workflow
        self.command = command


class StepFailed(MendflowError):
    """A step failed and has no retries left. Raised at its call inside a workflow."""

    def __init__(self, step_key: str, failure: failure_pb2.Failure) -> None:
        super().__init__(f"step {step_key} failed: {failure.type}: {failure.message}")
        self.step_key = step_key
        self.failure = failure


class SignalTimeout(MendflowError):
    """No signal arrived before the timeout."""

    def __init__(self, name: str) -> None:
        super().__init__(f"signal {name!r} did not arrive before the timeout")
        self.name = name


class TransientError(MendflowError):
    """Raise it in a step to request a retry: the cause may be temporary."""


class ThrottledError(TransientError):
    """Raise it in a step to request a retry after a delay: the callee is throttling. ``retry_after`` is in seconds."""

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(MendflowError):
    """Raise it in a step to prevent a retry: the cause is permanent."""


class RequestError(MendflowError):
    """The server refused a call or did not answer it.

    ``code`` is the name of the gRPC status code. ``reason`` is a name of
    ``mendflow.v1.ErrorReason`` without its prefix, or "" if the status has no
    ErrorInfo. ``metadata`` comes from the ErrorInfo. ``violations`` lists the
    malformed fields as (field, description) pairs. ``retry_after`` is in
    seconds, or None.
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
    """A field of the request is malformed; ``violations`` lists each."""


class WorkflowNotFound(RequestError):
    """No workflow has this id."""


class AlreadyStarted(RequestError):
    """A workflow of another type or input has this id."""


class WrongState(RequestError):
    """The workflow has ended, or it is not stopped and cannot be resumed."""


class SequenceOutOfRange(RequestError):
    """No event has the requested sequence."""


class LimitExceeded(RequestError):
    """A server limit is reached."""


class ServerUnavailable(RequestError):
    """The server is shutting down, recovering, without its store, unreachable, or does not answer in time."""


class DeadlineExceeded(RequestError):
    """The call's timeout passed. The workflow continues."""


class ServerFault(RequestError):
    """An internal error in the server."""


class WorkflowEndedError(MendflowError):
    """The workflow ended without a result."""

    def __init__(self, workflow_id: str, message: str) -> None:
        super().__init__(message)
        self.workflow_id = workflow_id


class WorkflowFailed(WorkflowEndedError):
    """The workflow failed; ``failure`` has the reason."""

    def __init__(self, workflow_id: str, failure: failure_pb2.Failure) -> None:
        super().__init__(workflow_id, f"workflow {workflow_id} failed: {failure.type}: {failure.message}")
        self.failure = failure


class WorkflowCancelled(WorkflowEndedError):
    """The workflow was cancelled."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id, f"workflow {workflow_id} was cancelled")


class WorkflowTerminated(WorkflowEndedError):
    """An operator terminated the workflow."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id, f"workflow {workflow_id} was terminated")
