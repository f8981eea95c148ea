"""Every refusal that a caller can meet, one class for each reason of ``mendflow.v1.ErrorReason``.

::

    Refusal
    ├── the caller's fault
    │   ├── InvalidFields            INVALID_FIELD           INVALID_ARGUMENT
    │   │   └── InvalidField         (the same, of one field)
    │   ├── UnknownWorkflowType      UNKNOWN_WORKFLOW_TYPE   INVALID_ARGUMENT
    │   ├── InputMismatch            INPUT_MISMATCH          INVALID_ARGUMENT
    │   ├── InvalidPageToken         INVALID_PAGE_TOKEN      INVALID_ARGUMENT
    │   ├── TooLarge                 TOO_LARGE               INVALID_ARGUMENT
    │   ├── WorkflowNotFound         WORKFLOW_NOT_FOUND      NOT_FOUND
    │   ├── AlreadyStarted           ALREADY_STARTED         ALREADY_EXISTS
    │   ├── WorkflowEnded            WORKFLOW_ENDED          FAILED_PRECONDITION
    │   ├── WrongState               WRONG_STATE             FAILED_PRECONDITION
    │   ├── MessagesNotExported      MESSAGES_NOT_EXPORTED   FAILED_PRECONDITION
    │   ├── SequenceBeyondEnd        SEQUENCE_BEYOND_END     OUT_OF_RANGE
    │   └── HistoryPurged            HISTORY_PURGED          OUT_OF_RANGE
    ├── not now
    │   ├── TooManySignals           TOO_MANY_SIGNALS        RESOURCE_EXHAUSTED
    │   ├── TooManyWatches           TOO_MANY_WATCHES        RESOURCE_EXHAUSTED
    │   ├── TooManyWorkflowsInMemory TOO_MANY_WORKFLOWS_IN_MEMORY RESOURCE_EXHAUSTED
    │   ├── Draining                 DRAINING                UNAVAILABLE
    │   └── StoreNotCommitting       STORE_UNAVAILABLE       UNAVAILABLE
    └── ours
        └── InternalFault            INTERNAL                INTERNAL

Code raises; `to_status` is the one place where a refusal becomes a status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from mendflow.v1 import workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "DOMAIN",
    "AlreadyStarted",
    "Draining",
    "HistoryPurged",
    "InputMismatch",
    "InternalFault",
    "InvalidField",
    "InvalidFields",
    "InvalidPageToken",
    "MessagesNotExported",
    "Refusal",
    "SequenceBeyondEnd",
    "StoreNotCommitting",
    "TooLarge",
    "TooManySignals",
    "TooManyWatches",
    "TooManyWorkflowsInMemory",
    "UnknownWorkflowType",
    "WorkflowEnded",
    "WorkflowNotFound",
    "WrongState",
    "to_status",
]

#: ErrorInfo.domain of every refusal.
DOMAIN: Final = "mendflow"

_RESOURCE_TYPE: Final = "mendflow.v1.Workflow"

# A status travels in the trailers, of which gRPC takes 8 KiB by default; above
# that the caller sees RESOURCE_EXHAUSTED instead of the refusal. The message
# goes twice (percent-encoded, and inside the details, which are base64).
_MESSAGE_BYTES: Final = 600
_DESCRIPTION_BYTES: Final = 300
_FIELD_BYTES: Final = 150
_METADATA_BYTES: Final = 600
_RESOURCE_BYTES: Final = 250
_VIOLATIONS_BYTES: Final = 1_500

_SOON: Final = 1.0


class Refusal(Exception):
    """The root: something that was asked for is not done, and the caller is told why."""

    code: ClassVar[grpc.StatusCode]
    reason: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        violations: Iterable[tuple[str, str]] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        resource: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        #: (field, description) of each field at fault.
        self.violations = list(violations)
        self.metadata = dict(metadata or {})
        #: Seconds after which asking again may help; None: it does not.
        self.retry_after = retry_after
        #: The workflow_id concerned; None: none.
        self.resource = resource


class InvalidFields(Refusal):
    """Fields of the request are malformed; all of them are named."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_FIELD"

    def __init__(self, violations: Iterable[tuple[str, str]]) -> None:
        fields = list(violations)
        # Without a name: the request as a whole.
        told = "; ".join(f"{field}: {description}" if field else description for field, description in fields)
        super().__init__(told, violations=fields)


class InvalidField(InvalidFields):
    """A field of the request is malformed."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__([(field, description)])


class UnknownWorkflowType(Refusal):
    """No such workflow type is served here."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "UNKNOWN_WORKFLOW_TYPE"

    def __init__(self, name: str, served: Iterable[str]) -> None:
        message = f"workflow type {_quote(name)} is not served here"
        super().__init__(
            message,
            violations=[("workflow_type", message)],
            metadata={"served": _join(sorted(served), _METADATA_BYTES)},
        )
        self.name = name


class InputMismatch(Refusal):
    """A value does not fit the schema. ``problems`` are (path, description) inside ``field``."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INPUT_MISMATCH"

    def __init__(self, problems: Iterable[tuple[str, str]], field: str = "input") -> None:
        violations = [(_inside(field, path), description) for path, description in problems]
        super().__init__(
            "; ".join(f"{place}: {description}" for place, description in violations)
            or f"{field}: does not fit the schema",
            violations=violations or [(field, "does not fit the schema")],
        )


class InvalidPageToken(Refusal):
    """The page token is not one of this server's, or was given out for another question."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_PAGE_TOKEN"

    def __init__(self, description: str = "not a page token of this server") -> None:
        super().__init__(f"page_token: {description}", violations=[("page_token", description)])


class TooLarge(Refusal):
    """Something is larger than its limit. ``unit`` says of what."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "TOO_LARGE"

    def __init__(self, field: str, size: int, limit: int, unit: str = "bytes") -> None:
        description = f"{size} {unit}; at most {limit} are taken"
        super().__init__(
            f"{field}: {description}",
            violations=[(field, description)],
            metadata={"limit": str(limit), "size": str(size)},
        )


class WorkflowNotFound(Refusal):
    """There is no workflow of this id."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "WORKFLOW_NOT_FOUND"

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"there is no workflow {_quote(workflow_id)}", resource=workflow_id)


class AlreadyStarted(Refusal):
    """The id is taken by a workflow of another type or input; ``differs`` is "type" or "input"."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_STARTED"

    def __init__(self, workflow_id: str, differs: str) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} was started before with another {differs}",
            metadata={"differs": differs},
            resource=workflow_id,
        )


class WorkflowEnded(Refusal):
    """The workflow has ended; ``state`` is a number of WorkflowState."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "WORKFLOW_ENDED"

    def __init__(self, workflow_id: str, state: int) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} has ended: {_state_name(state)}",
            metadata={"state": _state_name(state)},
            resource=workflow_id,
        )


class WrongState(Refusal):
    """The verb needs another state; ``state`` is a number of WorkflowState."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "WRONG_STATE"

    def __init__(self, workflow_id: str, state: int, message: str = "") -> None:
        super().__init__(
            message or f"workflow {_quote(workflow_id)} is {_state_name(state)}",
            metadata={"state": _state_name(state)},
            resource=workflow_id,
        )


class MessagesNotExported(Refusal):
    """A message came where the type takes JSON, for its messages were not exported; ``command`` does that."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "MESSAGES_NOT_EXPORTED"

    def __init__(self, workflow_type: str, command: str, field: str) -> None:
        super().__init__(
            f"{field}.message: workflow type {_quote(workflow_type)} takes JSON; to take messages, export its types "
            f"and start the server again: {command}",
            metadata={"command": command, "field": f"{field}.message"},
        )


class SequenceBeyondEnd(Refusal):
    """A watch from after a sequence that the history has not reached."""

    code = grpc.StatusCode.OUT_OF_RANGE
    reason = "SEQUENCE_BEYOND_END"

    def __init__(self, workflow_id: str, asked: int, last: int) -> None:
        super().__init__(
            f"after_sequence is {asked}, but the newest event of workflow {_quote(workflow_id)} is {last}",
            violations=[("after_sequence", f"{asked}; the newest event is {last}")],
            metadata={"last_sequence": str(last)},
            resource=workflow_id,
        )


class HistoryPurged(Refusal):
    """The events asked for were purged; ``first`` is the oldest sequence there is."""

    code = grpc.StatusCode.OUT_OF_RANGE
    reason = "HISTORY_PURGED"

    def __init__(self, workflow_id: str, first: int) -> None:
        super().__init__(
            f"the history of workflow {_quote(workflow_id)} begins at {first}; what came before was purged",
            metadata={"first_sequence": str(first)},
            resource=workflow_id,
        )


class TooManySignals(Refusal):
    """As many signals as the limit allows wait to be taken by the workflow."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_SIGNALS"

    def __init__(self, workflow_id: str, limit: int) -> None:
        super().__init__(
            f"{limit} signals of workflow {_quote(workflow_id)} wait to be taken; no more are accepted",
            metadata={"limit": str(limit)},
            resource=workflow_id,
        )


class TooManyWatches(Refusal):
    """As many watches as the limit allows are open here."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_WATCHES"

    def __init__(self, limit: int, *, retry_after: float = _SOON) -> None:
        super().__init__(f"{limit} watches are open here", metadata={"limit": str(limit)}, retry_after=retry_after)


class TooManyWorkflowsInMemory(Refusal):
    """As many workflows as the limit allows are open in memory here."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_WORKFLOWS_IN_MEMORY"

    def __init__(self, limit: int, *, retry_after: float = _SOON) -> None:
        super().__init__(
            f"{limit} workflows are open in memory here", metadata={"limit": str(limit)}, retry_after=retry_after
        )


class Draining(Refusal):
    """The server drains: ask again, here or elsewhere."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "DRAINING"

    def __init__(self, *, retry_after: float = _SOON) -> None:
        super().__init__("the server drains; ask again, here or elsewhere", retry_after=retry_after)


class StoreNotCommitting(Refusal):
    """The store does not commit: what was asked for may or may not have taken place."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"

    def __init__(self, why: str = "", *, retry_after: float = _SOON) -> None:
        super().__init__(
            "the store does not commit; what was asked for may or may not have taken place: "
            f"ask again under the same id{f' ({why})' if why else ''}",
            retry_after=retry_after,
        )


class InternalFault(Refusal):
    """A fault of the server's own; the log has it under ``error_id``."""

    code = grpc.StatusCode.INTERNAL
    reason = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        super().__init__(
            f"a fault of the server's own; its log has it under {error_id}", metadata={"error_id": error_id}
        )
        self.error_id = error_id


def to_status(refusal: Refusal) -> status_pb2.Status:
    """Make the status with its details, small enough for gRPC's trailers whatever the caller sent."""
    number: int = refusal.code.value[0]
    status = status_pb2.Status(code=number, message=_cut(refusal.message, _MESSAGE_BYTES))
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason,
        domain=DOMAIN,
        metadata={name: _cut(value, _METADATA_BYTES) for name, value in refusal.metadata.items()},
    )
    status.details.add().Pack(info)
    if refusal.violations:
        status.details.add().Pack(_bad_request(refusal.violations))
    if refusal.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(refusal.retry_after * 1_000_000_000))
        status.details.add().Pack(retry)
    if refusal.resource is not None:
        resource = error_details_pb2.ResourceInfo(
            resource_type=_RESOURCE_TYPE, resource_name=_cut(refusal.resource, _RESOURCE_BYTES)
        )
        status.details.add().Pack(resource)
    return status


def _bad_request(violations: Sequence[tuple[str, str]]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for told, (field, description) in enumerate(violations):
        if bad_request.ByteSize() > _VIOLATIONS_BYTES:
            bad_request.field_violations.add(description=f"and {len(violations) - told} more")
            break
        bad_request.field_violations.add(
            field=_cut(field, _FIELD_BYTES), description=_cut(description, _DESCRIPTION_BYTES)
        )
    return bad_request


def _inside(field: str, path: str) -> str:
    if not path:
        return field
    return f"{field}{path}" if path.startswith("[") else f"{field}.{path}"


def _state_name(state: int) -> str:
    try:
        name = workflow_pb2.WorkflowState.Name(workflow_pb2.WorkflowState.ValueType(state))
    except ValueError:
        return str(state)
    return name.removeprefix("WORKFLOW_STATE_")


def _quote(text: str) -> str:
    return f'"{_cut(text, _RESOURCE_BYTES)}"'


def _join(names: Sequence[str], limit: int) -> str:
    """Names with commas between, whole ones only: a name cut in half would be a wrong name."""
    joined = ""
    for told, name in enumerate(names):
        longer = f"{joined}, {name}" if joined else name
        if len(longer.encode()) > limit - 20:
            return f"{joined}, … {len(names) - told} more"
        joined = longer
    return joined


def _cut(text: str, limit: int) -> str:
    """At most ``limit`` bytes of UTF-8, with a sign where something was left out."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"
