"""Every refusal that a caller can meet, one class for each reason of ``mendflow.v1.ErrorReason``.

::

    Refusal
    ├── the caller's fault
    │   ├── InvalidFields            INVALID_FIELD
    │   │   └── InvalidField         (the same, of one field)
    │   ├── UnknownWorkflowType      UNKNOWN_WORKFLOW_TYPE
    │   ├── InputMismatch            INPUT_MISMATCH
    │   ├── InvalidPageToken         INVALID_PAGE_TOKEN
    │   ├── TooLarge                 TOO_LARGE
    │   ├── WorkflowNotFound         WORKFLOW_NOT_FOUND
    │   ├── AlreadyStarted           ALREADY_STARTED
    │   ├── WorkflowEnded            WORKFLOW_ENDED
    │   ├── WrongState               WRONG_STATE
    │   ├── MessagesNotExported      MESSAGES_NOT_EXPORTED
    │   ├── SequenceBeyondEnd        SEQUENCE_BEYOND_END
    │   └── HistoryPurged            HISTORY_PURGED
    ├── not now
    │   ├── TooManySignals           TOO_MANY_SIGNALS
    │   ├── TooManyWatches           TOO_MANY_WATCHES
    │   ├── TooManyWorkflowsInMemory TOO_MANY_WORKFLOWS_IN_MEMORY
    │   ├── Draining                 DRAINING
    │   └── StoreNotCommitting       STORE_UNAVAILABLE
    └── ours
        └── InternalFault            INTERNAL

Code raises; `mendflow_server.api.status_codes` has the status code of each reason, and is the one place where a refusal
becomes a status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

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
    "UnknownWorkflowType",
    "WorkflowEnded",
    "WorkflowNotFound",
    "WrongState",
    "truncate",
]

#: The longest value of ErrorInfo.metadata, in bytes of UTF-8.
METADATA_BYTES: Final = 600
#: The longest workflow_id or type name that a message quotes, in bytes of UTF-8.
RESOURCE_BYTES: Final = 250

_SOON: Final = 1.0


class Refusal(Exception):
    """The root: something that was asked for is not done, and the caller is told why."""

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

    reason = "UNKNOWN_WORKFLOW_TYPE"

    def __init__(self, name: str, served: Iterable[str]) -> None:
        message = f"workflow type {_quote(name)} is not served here"
        super().__init__(
            message,
            violations=[("workflow_type", message)],
            metadata={"served": _join(sorted(served), METADATA_BYTES)},
        )
        self.name = name


class InputMismatch(Refusal):
    """A value does not fit the schema. ``problems`` are (path, description) inside ``field``."""

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

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self, description: str = "not a page token of this server") -> None:
        super().__init__(f"page_token: {description}", violations=[("page_token", description)])


class TooLarge(Refusal):
    """Something is larger than its limit. ``unit`` says of what."""

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

    reason = "WORKFLOW_NOT_FOUND"

    def __init__(self, workflow_id: str) -> None:
        super().__init__(f"there is no workflow {_quote(workflow_id)}", resource=workflow_id)


class AlreadyStarted(Refusal):
    """The id is taken by a workflow of another type or input; ``differs`` is "type" or "input"."""

    reason = "ALREADY_STARTED"

    def __init__(self, workflow_id: str, differs: str) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} was started before with another {differs}",
            metadata={"differs": differs},
            resource=workflow_id,
        )


class WorkflowEnded(Refusal):
    """The workflow has ended; ``state`` is a number of WorkflowState."""

    reason = "WORKFLOW_ENDED"

    def __init__(self, workflow_id: str, state: int) -> None:
        super().__init__(
            f"workflow {_quote(workflow_id)} has ended: {_state_name(state)}",
            metadata={"state": _state_name(state)},
            resource=workflow_id,
        )


class WrongState(Refusal):
    """The verb needs another state; ``state`` is a number of WorkflowState."""

    reason = "WRONG_STATE"

    def __init__(self, workflow_id: str, state: int, message: str = "") -> None:
        super().__init__(
            message or f"workflow {_quote(workflow_id)} is {_state_name(state)}",
            metadata={"state": _state_name(state)},
            resource=workflow_id,
        )


class MessagesNotExported(Refusal):
    """A message came where the type takes JSON, for its messages were not exported; ``command`` does that."""

    reason = "MESSAGES_NOT_EXPORTED"

    def __init__(self, workflow_type: str, command: str, field: str) -> None:
        super().__init__(
            f"{field}.message: workflow type {_quote(workflow_type)} takes JSON; to take messages, export its types "
            f"and start the server again: {command}",
            metadata={"command": command, "field": f"{field}.message"},
        )


class SequenceBeyondEnd(Refusal):
    """A watch from after a sequence that the history has not reached."""

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

    reason = "HISTORY_PURGED"

    def __init__(self, workflow_id: str, first: int) -> None:
        super().__init__(
            f"the history of workflow {_quote(workflow_id)} begins at {first}; what came before was purged",
            metadata={"first_sequence": str(first)},
            resource=workflow_id,
        )


class TooManySignals(Refusal):
    """As many signals as the limit allows wait to be taken by the workflow."""

    reason = "TOO_MANY_SIGNALS"

    def __init__(self, workflow_id: str, limit: int) -> None:
        super().__init__(
            f"{limit} signals of workflow {_quote(workflow_id)} wait to be taken; no more are accepted",
            metadata={"limit": str(limit)},
            resource=workflow_id,
        )


class TooManyWatches(Refusal):
    """As many watches as the limit allows are open here."""

    reason = "TOO_MANY_WATCHES"

    def __init__(self, limit: int, *, retry_after: float = _SOON) -> None:
        super().__init__(f"{limit} watches are open here", metadata={"limit": str(limit)}, retry_after=retry_after)


class TooManyWorkflowsInMemory(Refusal):
    """As many workflows as the limit allows are open in memory here."""

    reason = "TOO_MANY_WORKFLOWS_IN_MEMORY"

    def __init__(self, limit: int, *, retry_after: float = _SOON) -> None:
        super().__init__(
            f"{limit} workflows are open in memory here", metadata={"limit": str(limit)}, retry_after=retry_after
        )


class Draining(Refusal):
    """The server drains: ask again, here or elsewhere."""

    reason = "DRAINING"

    def __init__(self, *, retry_after: float = _SOON) -> None:
        super().__init__("the server drains; ask again, here or elsewhere", retry_after=retry_after)


class StoreNotCommitting(Refusal):
    """The store does not commit: what was asked for may or may not have taken place."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, why: str = "", *, retry_after: float = _SOON) -> None:
        super().__init__(
            "the store does not commit; what was asked for may or may not have taken place: "
            f"ask again under the same id{f' ({why})' if why else ''}",
            retry_after=retry_after,
        )


class InternalFault(Refusal):
    """A fault of the server's own; the log has it under ``error_id``."""

    reason = "INTERNAL"

    def __init__(self, error_id: str) -> None:
        super().__init__(
            f"a fault of the server's own; its log has it under {error_id}", metadata={"error_id": error_id}
        )
        self.error_id = error_id


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
    """Names with commas between, whole ones only: a name cut in half would be a wrong name."""
    joined = ""
    for told, name in enumerate(names):
        longer = f"{joined}, {name}" if joined else name
        if len(longer.encode()) > limit - 20:
            return f"{joined}, … {len(names) - told} more"
        joined = longer
    return joined


def truncate(text: str, limit: int) -> str:
    """Return at most ``limit`` bytes of UTF-8, ending in "…" when something was left out."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return text
    return encoded[: limit - 3].decode("utf-8", "ignore") + "…"
