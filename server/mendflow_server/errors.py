"""Every refusal that a caller can receive, one class for each reason of ``mendflow.v1.ErrorReason``.

::

    Refusal
    ├── the caller's fault
    │   ├── InvalidFields            INVALID_FIELD
    │   │   └── InvalidField         (the same, for one field)
    │   ├── UnknownWorkflowType      UNKNOWN_WORKFLOW_TYPE
    │   ├── InputMismatch            INPUT_MISMATCH
    │   ├── InvalidPageToken         INVALID_PAGE_TOKEN
    │   ├── TooLarge                 TOO_LARGE
    │   ├── WorkflowNotFound         WORKFLOW_NOT_FOUND
    │   ├── AlreadyStarted           ALREADY_STARTED
    │   ├── WorkflowEnded            WORKFLOW_ENDED
    │   ├── WrongState               WRONG_STATE
    │   ├── WorkflowHeld             WORKFLOW_HELD
    │   ├── MessagesNotExported      MESSAGES_NOT_EXPORTED
    │   ├── SequenceBeyondEnd        SEQUENCE_BEYOND_END
    │   └── HistoryPurged            HISTORY_PURGED
    ├── not now, retry later
    │   ├── TooManySignals           TOO_MANY_SIGNALS
    │   ├── TooManyWatches           TOO_MANY_WATCHES
    │   ├── TooManyWorkflowsInMemory TOO_MANY_WORKFLOWS_IN_MEMORY
    │   ├── Draining                 DRAINING
    │   └── StoreNotCommitting       STORE_UNAVAILABLE
    └── the server's fault
        └── InternalFault            INTERNAL

The rest of the server raises these classes. `mendflow_server.api.status_codes` has the status code of each reason, and
is the only place where a refusal becomes a status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from mendflow.errors import reduce_error
from mendflow.v1 import workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "METADATA_BYTES",
    "RESOURCE_BYTES",
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
    "UndeclaredSignal",
    "UnknownWorkflowType",
    "WorkflowEnded",
    "WorkflowHeld",
    "WorkflowNotFound",
    "WrongState",
    "not_ended",
    "truncate",
]

#: The longest value of ErrorInfo.metadata, in bytes of UTF-8.
METADATA_BYTES: Final = 600
#: The longest workflow_id or type name that a message quotes, in bytes of UTF-8.
RESOURCE_BYTES: Final = 250

#: The default of ``retry_after``, in seconds.
_SOON: Final = 1.0


class Refusal(Exception):
    """The root of the tree: the server refuses a request, and says why.

    ``message`` says what failed and what to do next. ``violations`` are (field, description) of each invalid field.
    ``metadata`` has the facts that a program needs, by name. ``retry_after`` is the number of seconds after which a
    retry can succeed; None when a retry does not help. ``resource`` is the workflow_id concerned, if there is one.
    """

    reason: ClassVar[str]
    __reduce__ = reduce_error

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
        self.violations = list(violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.resource = resource


class InvalidFields(Refusal):
    """Fields of the request are malformed. The refusal names all of them."""

    reason = "INVALID_FIELD"

    def __init__(self, violations: Iterable[tuple[str, str]]) -> None:
        fields = list(violations)
        # An empty name stands for the request as a whole.
        message = "; ".join(f"{field}: {description}" if field else description for field, description in fields)
        super().__init__(message, violations=fields)


class InvalidField(InvalidFields):
    """One field of the request is malformed."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__([(field, description)])


class UndeclaredSignal(InvalidField):
    """The workflow's type declares signals, but not this one."""

    def __init__(self, workflow_type: str, name: str, declared: Iterable[str]) -> None:
        super().__init__(
            "name",
            f"workflow type {_quote(workflow_type)} declares the signals {_join(sorted(declared), METADATA_BYTES)}, "
            f"but not {_quote(name)}; set allow_undeclared to send it anyway (--force at the command line)",
        )


class UnknownWorkflowType(Refusal):
    """This server does not serve the workflow type."""

    reason = "UNKNOWN_WORKFLOW_TYPE"

    def __init__(self, name: str, served: Iterable[str]) -> None:
        message = f"workflow type {_quote(name)} is not served by this server; ListWorkflowTypes returns those that are"
        super().__init__(
            message,
            violations=[("workflow_type", message)],
            metadata={"served": _join(sorted(served), METADATA_BYTES)},
        )
        self.name = name


class InputMismatch(Refusal):
    """A value does not match its schema. ``problems`` are (path, description) inside ``field``."""

    reason = "INPUT_MISMATCH"

    def __init__(self, problems: Iterable[tuple[str, str]], field: str = "input") -> None:
        violations = [(_inside(field, path), description) for path, description in problems]
        super().__init__(
            "; ".join(f"{place}: {description}" for place, description in violations)
            or f"{field}: does not match the schema",
            violations=violations or [(field, "does not match the schema")],
        )


class InvalidPageToken(Refusal):
    """The server cannot read the page token, or issued it for another list or filter."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self, description: str = "is not a page token of this server; restart from the first page") -> None:
        super().__init__(f"page_token: {description}", violations=[("page_token", description)])


class TooLarge(Refusal):
    """A value exceeds its limit. ``size`` and ``limit`` are numbers of ``unit``."""

    reason = "TOO_LARGE"

    def __init__(self, field: str, size: int, limit: int, unit: str = "bytes") -> None:
        description = f"{size} {unit} exceeds the limit of {limit}"
        super().__init__(
            f"{field}: {description}",
            violations=[(field, description)],
            metadata={"limit": str(limit), "size": str(size)},
        )


class WorkflowNotFound(Refusal):
    """No workflow has this id."""

    reason = "WORKFLOW_NOT_FOUND"

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"workflow {_quote(workflow_id)} not found", resource=workflow_id)


class AlreadyStarted(Refusal):
    """A workflow with this id exists and has another type or input. ``differs`` is "type" or "input"."""

    reason = "ALREADY_STARTED"

    def __init__(self, workflow_id: str, differs: str) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} already exists with another {differs}; choose another workflow_id",
            metadata={"differs": differs},
            resource=workflow_id,
        )


class WorkflowEnded(Refusal):
    """The workflow has ended. ``state`` is a number of WorkflowState."""

    reason = "WORKFLOW_ENDED"

    def __init__(self, workflow_id: str, state: int) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} has already ended in state {_state_name(state)}",
            metadata={"state": _state_name(state)},
            resource=workflow_id,
        )


class WrongState(Refusal):
    """The request needs the workflow to be in another state. ``state`` is a number of WorkflowState."""

    reason = "WRONG_STATE"

    def __init__(self, workflow_id: str, state: int, message: str = "") -> None:
        super().__init__(
            message or f"workflow {_quote(workflow_id)} is in state {_state_name(state)}",
            metadata={"state": _state_name(state)},
            resource=workflow_id,
        )


class WorkflowHeld(Refusal):
    """An operator holds the workflow, so it cannot be deleted."""

    reason = "WORKFLOW_HELD"

    def __init__(self, workflow_id: str) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} is held; release it before you delete it", resource=workflow_id
        )


class MessagesNotExported(Refusal):
    """A protobuf message arrived for a type that accepts only JSON. ``command`` exports the type's messages."""

    reason = "MESSAGES_NOT_EXPORTED"

    def __init__(self, workflow_type: str, command: str, field: str) -> None:
        super().__init__(
            f"{field}.message: workflow type {_quote(workflow_type)} accepts only JSON; send JSON, or export its "
            f"messages and restart the server: {command}",
            metadata={"command": command, "field": f"{field}.message"},
        )


class SequenceBeyondEnd(Refusal):
    """A watch starts after a sequence that the history has not reached."""

    reason = "SEQUENCE_BEYOND_END"

    def __init__(self, workflow_id: str, asked: int, last: int) -> None:
        super().__init__(
            f"after_sequence {asked} exceeds the last sequence {last} of workflow {_quote(workflow_id)}; watch from 0",
            violations=[("after_sequence", f"{asked} exceeds the last sequence {last}")],
            metadata={"last_sequence": str(last)},
            resource=workflow_id,
        )


class HistoryPurged(Refusal):
    """The requested events were purged. ``first`` is the oldest sequence that is still stored."""

    reason = "HISTORY_PURGED"

    def __init__(self, workflow_id: str, first: int) -> None:
        super().__init__(
            f"events of workflow {_quote(workflow_id)} before sequence {first} were purged; "
            f"retry with after_sequence {first - 1}",
            metadata={"first_sequence": str(first)},
            resource=workflow_id,
        )


class TooManySignals(Refusal):
    """The workflow has as many untaken signals as the limit allows."""

    reason = "TOO_MANY_SIGNALS"

    def __init__(self, workflow_id: str, limit: int) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} has reached the limit of {limit} untaken signals; retry when it has taken "
            "some of them",
            metadata={"limit": str(limit)},
            resource=workflow_id,
        )


class TooManyWatches(Refusal):
    """This server has as many open watches as the limit allows."""

    reason = "TOO_MANY_WATCHES"

    def __init__(self, limit: int, *, retry_after: float = _SOON) -> None:
        super().__init__(
            f"server has reached the limit of {limit} open watches; retry later",
            metadata={"limit": str(limit)},
            retry_after=retry_after,
        )


class TooManyWorkflowsInMemory(Refusal):
    """This server has as many workflows in memory as the limit allows."""

    reason = "TOO_MANY_WORKFLOWS_IN_MEMORY"

    def __init__(self, limit: int, *, retry_after: float = _SOON) -> None:
        super().__init__(
            f"server has reached the limit of {limit} workflows in memory; retry later",
            metadata={"limit": str(limit)},
            retry_after=retry_after,
        )


class Draining(Refusal):
    """The server is shutting down. The caller can retry on this or another replica."""

    reason = "DRAINING"

    def __init__(self, *, retry_after: float = _SOON) -> None:
        super().__init__("server is shutting down; retry on this or another replica", retry_after=retry_after)


class StoreNotCommitting(Refusal):
    """The store did not commit in time, or cannot be read. A requested change may or may not have been committed."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, why: str = "", *, retry_after: float = _SOON) -> None:
        super().__init__(
            f"commit failed and the outcome is unknown; retry with the same workflow_id{f' ({why})' if why else ''}",
            retry_after=retry_after,
        )


class InternalFault(Refusal):
    """The server has a bug or a broken part. Its log has the details under ``error_id``."""

    reason = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        super().__init__(
            f"internal error; search the server log for error_id {error_id}", metadata={"error_id": error_id}
        )
        self.error_id = error_id


def not_ended(workflow_id: str, state: int) -> str:
    """Return the message of a `WrongState` for a workflow that cannot be deleted yet."""
    return (
        f"workflow {_quote(workflow_id)} is in state {_state_name(state)}; only a workflow that has ended can be "
        "deleted, so cancel or terminate it first"
    )


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
    return f'"{truncate(text, RESOURCE_BYTES)}"'


def _join(names: Sequence[str], limit: int) -> str:
    """Return as many whole names as fit, separated by commas, and the number of the others."""
    joined = ""
    for count, name in enumerate(names):
        longer = f"{joined}, {name}" if joined else name
        if len(longer.encode()) > limit - 20:
            return f"{joined}, … {len(names) - count} more"
        joined = longer
    return joined


def truncate(text: str, limit: int) -> str:
    """Return at most ``limit`` bytes of UTF-8, ending in "…" when something was left out."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"
