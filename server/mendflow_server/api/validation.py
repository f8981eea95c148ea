"""The checks of requests. Each function returns the checked values, or raises a refusal that names every invalid field.

The functions are pure: they use no store and no clock. The rules are those that the comments of the protos state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from mendflow.codec import may_overflow, not_finite, oversize
from mendflow.codec.problems import check_unique
from mendflow.errors import MessageNotExported, PayloadError
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.errors import (
    InputMismatch,
    InvalidFields,
    MessagesNotExported,
    TooLarge,
    UndeclaredSignal,
    UnknownWorkflowType,
)
from mendflow_server.store.records import Filter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from mendflow.authoring.workflow import Workflow
    from mendflow.codec import ValueType
    from mendflow.v1 import operator_service_pb2, workflow_service_pb2
    from mendflow.v1.payload_pb2 import Payload
    from mendflow_server.settings import Settings

    Violations = list[tuple[str, str]]

__all__ = [
    "Cancel",
    "Delete",
    "Get",
    "ListWorkflows",
    "PageOf",
    "Start",
    "Watch",
    "check_batch",
    "check_cancel",
    "check_delete",
    "check_get",
    "check_hold",
    "check_list_events",
    "check_list_types",
    "check_list_workflows",
    "check_operator",
    "check_signal",
    "check_start",
    "check_watch",
    "decode_input",
    "decode_signal",
    "definition_of",
    "signal_type_of",
]

_DEFAULT_PAGE: Final = 100
_REQUEST_ID_LENGTH: Final = 128
_SIGNAL_NAME_LENGTH: Final = 100
_TYPE_NAME_LENGTH: Final = 200
_REASON_LENGTH: Final = 1_000
_LABEL_NAME_LENGTH: Final = 63
_LABEL_VALUE_LENGTH: Final = 255
_NANOS: Final = 1_000_000_000
_EARLIEST_SECOND: Final = -62_135_596_800  # 0001-01-01
_LATEST_SECOND: Final = 253_402_300_799  # 9999-12-31
_REQUEST_ID_PREFIX: Final = "request-"

_is_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+\-]*").fullmatch
_is_uid = re.compile(r"[0-9a-f]{32}").fullmatch
_is_label_name = re.compile(r"[a-zA-Z0-9._/\-]+").fullmatch
_STATES: Final = frozenset(workflow_pb2.WorkflowState.values()) - {workflow_pb2.WORKFLOW_STATE_UNSPECIFIED}
_KINDS: Final = frozenset(event_pb2.EventKind.values()) - {event_pb2.EVENT_KIND_UNSPECIFIED}


@dataclass(slots=True)
class Start:
    """A valid start. ``workflow_id`` is empty when the server chooses one. ``wait`` is in seconds, None when absent."""

    workflow_id: str
    labels: dict[str, str]
    wait: float | None


@dataclass(slots=True)
class Get:
    """A valid get. ``wait`` is in seconds. An empty ``uid`` matches any workflow."""

    workflow_id: str
    wait: float
    uid: str


@dataclass(slots=True)
class Watch:
    """A valid watch. An empty ``kinds`` selects all kinds, and an empty ``uid`` matches any workflow."""

    workflow_id: str
    after_sequence: int
    kinds: frozenset[int]
    uid: str


@dataclass(slots=True)
class ListWorkflows:
    """A valid list of workflows."""

    condition: Filter
    page_size: int


@dataclass(slots=True)
class PageOf:
    """A valid list of what belongs to one workflow."""

    workflow_id: str
    page_size: int


@dataclass(slots=True)
class Delete:
    """A checked deletion. An empty ``uid`` matches any workflow."""

    workflow_id: str
    uid: str


@dataclass(slots=True)
class Cancel:
    """A valid cancel, resume or terminate."""

    workflow_id: str
    reason: str


def check_start(request: workflow_service_pb2.StartWorkflowRequest, settings: Settings) -> Start:
    """Check a start and the size of its input. Derive a missing workflow_id from the request_id."""
    violations: Violations = []
    workflow_id = request.workflow_id
    request_id = request.request_id
    if workflow_id:
        _check_id(violations, "workflow_id", workflow_id, settings.workflow_id_length)
    if request_id:
        _check_id(violations, "request_id", request_id, _REQUEST_ID_LENGTH)
        workflow_id = workflow_id or _REQUEST_ID_PREFIX + request_id
    if not request.workflow_type:
        violations.append(("workflow_type", "is required"))
    labels = _check_labels(violations, request.labels, settings) if request.labels else {}
    wait = _check_wait(violations, request.wait, settings) if request.HasField("wait") else None
    if violations:
        raise InvalidFields(violations)
    if request.HasField("input"):
        _check_size("input", request.input, settings)
    return Start(workflow_id, labels, wait)


def check_batch(request: workflow_service_pb2.BatchStartWorkflowsRequest, settings: Settings) -> None:
    """Check the batch as a whole, but not its starts."""
    count = len(request.requests)
    if not count:
        raise InvalidFields([("requests", "must contain at least one start")])
    if count > settings.batch_limit:
        raise InvalidFields([("requests", f"{count} starts exceeds the limit of {settings.batch_limit}")])
    waiting = [index for index, start in enumerate(request.requests) if start.HasField("wait")]
    if waiting:
        raise InvalidFields([(f"requests[{index}].wait", "must be absent in a batch") for index in waiting])


def check_get(request: workflow_service_pb2.GetWorkflowRequest, settings: Settings) -> Get:
    """Check a get."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    wait = _check_wait(violations, request.wait, settings) if request.HasField("wait") else 0.0
    _check_uid(violations, request.uid)
    _raise(violations)
    return Get(request.workflow_id, wait, request.uid)


def check_watch(request: workflow_service_pb2.WatchWorkflowRequest, settings: Settings) -> Watch:
    """Check a watch."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    if request.after_sequence < 0:
        violations.append(("after_sequence", "must not be negative"))
    _check_enum(violations, "kinds", request.kinds, _KINDS, "EventKind")
    _check_uid(violations, request.uid)
    _raise(violations)
    return Watch(request.workflow_id, request.after_sequence, frozenset(request.kinds), request.uid)


def check_list_workflows(request: workflow_service_pb2.ListWorkflowsRequest, settings: Settings) -> ListWorkflows:
    """Check a list of workflows and its filter."""
    violations: Violations = []
    page_size = _check_page_size(violations, request.page_size, settings)
    if request.workflow_type:
        _check_text(violations, "workflow_type", request.workflow_type, _TYPE_NAME_LENGTH)
    _check_enum(violations, "states", request.states, _STATES, "WorkflowState")
    labels = _check_labels(violations, request.labels, settings)
    since = until = None
    if request.HasField("create_time_from"):
        since = _check_time(violations, "create_time_from", request.create_time_from)
    if request.HasField("create_time_until"):
        until = _check_time(violations, "create_time_until", request.create_time_until)
    _raise(violations)
    condition = Filter(
        workflow_type=request.workflow_type,
        states=tuple(sorted(set(request.states))),
        labels=tuple(sorted(labels.items())),
        create_time_from=since,
        create_time_until=until,
    )
    return ListWorkflows(condition, page_size)


def check_list_events(request: workflow_service_pb2.ListEventsRequest, settings: Settings) -> PageOf:
    """Check a list of events."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    page_size = _check_page_size(violations, request.page_size, settings)
    _raise(violations)
    return PageOf(request.workflow_id, page_size)


def check_list_types(request: workflow_service_pb2.ListWorkflowTypesRequest, settings: Settings) -> int:
    """Check a list of workflow types. Return its page size."""
    violations: Violations = []
    page_size = _check_page_size(violations, request.page_size, settings)
    _raise(violations)
    return page_size


def check_signal(request: workflow_service_pb2.SignalWorkflowRequest, settings: Settings) -> None:
    """Check a signal and the size of its data."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    if request.name:
        _check_id(violations, "name", request.name, _SIGNAL_NAME_LENGTH)
    else:
        violations.append(("name", "is required"))
    if request.request_id:
        _check_id(violations, "request_id", request.request_id, _REQUEST_ID_LENGTH)
    _raise(violations)
    if request.HasField("data"):
        _check_size("data", request.data, settings)


def check_cancel(request: workflow_service_pb2.CancelWorkflowRequest, settings: Settings) -> Cancel:
    """Check a cancel."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    _check_text(violations, "reason", request.reason, _REASON_LENGTH)
    if request.request_id:
        _check_id(violations, "request_id", request.request_id, _REQUEST_ID_LENGTH)
    _raise(violations)
    return Cancel(request.workflow_id, request.reason)


def check_operator(
    request: operator_service_pb2.ResumeWorkflowRequest | operator_service_pb2.TerminateWorkflowRequest,
    settings: Settings,
) -> Cancel:
    """Check a resume or a terminate."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    _check_text(violations, "reason", request.reason, _REASON_LENGTH)
    _raise(violations)
    return Cancel(request.workflow_id, request.reason)


def check_hold(
    request: operator_service_pb2.HoldWorkflowRequest | operator_service_pb2.ReleaseWorkflowRequest,
    settings: Settings,
) -> str:
    """Check a hold or a release, and return the workflow's id."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    _raise(violations)
    return request.workflow_id


def check_delete(request: operator_service_pb2.DeleteWorkflowRequest, settings: Settings) -> Delete:
    """Check a deletion."""
    violations: Violations = []
    _check_workflow_id(violations, request.workflow_id, settings)
    _check_uid(violations, request.uid)
    _raise(violations)
    return Delete(request.workflow_id, request.uid)


def _check_uid(violations: Violations, uid: str) -> None:
    if uid and not _is_uid(uid):
        violations.append(("uid", "must be empty or a workflow's uid, which is 32 hexadecimal digits"))


def definition_of(name: str, definitions: Mapping[str, Workflow[Any, Any]]) -> Workflow[Any, Any]:
    """Return the workflow type with this name. Raise `UnknownWorkflowType`."""
    definition = definitions.get(name)
    if definition is None:
        raise UnknownWorkflowType(name, definitions)
    return definition


def decode_input(definition: Workflow[Any, Any], payload: Payload | None) -> object:
    """Return the argument of the workflow function. Raise `InputMismatch` or `MessagesNotExported`."""
    if definition.input_type is None:
        if payload is not None and payload.HasField("message"):
            _decode(definition.no_input_type, payload, "input")
        elif payload is not None and not _is_null(payload):
            raise InputMismatch([("", f"workflow type {definition.name} takes no input; leave it out")])
        return None
    return _decode(definition.input_type, payload, "input")


def signal_type_of(definition: Workflow[Any, Any], name: str, *, allow_undeclared: bool) -> ValueType[Any] | None:
    """Return the declared type of a signal, or None if its data is not checked.

    Raise `UndeclaredSignal` if the workflow type declares other signals only.
    """
    declared = definition.signals.get(name)
    if declared is None and definition.signals and not allow_undeclared:
        raise UndeclaredSignal(definition.name, name, definition.signals)
    return declared


def decode_signal(value_type: ValueType[Any] | None, payload: Payload | None) -> None:
    """Check a signal's data against its declared type. Without one, it must be a JSON text or a message.

    Raise `InputMismatch` or `MessagesNotExported`.
    """
    if value_type is not None:
        _decode(value_type, payload, "data")
    elif payload is not None:
        _check_well_formed(payload, "data")


def _decode(value_type: ValueType[Any], payload: Payload | None, field: str) -> object:
    try:
        decoded: object = value_type.accept(payload)
    except MessageNotExported as error:
        raise MessagesNotExported(error.workflow, error.command, field) from error
    except PayloadError as error:
        raise InputMismatch(error.problems or [("", str(error))], field) from error
    except RecursionError as error:
        raise InputMismatch([("", "is nested too deeply")], field) from error
    if payload is not None:
        _check_unique(payload.json, field)
    return decoded


def _check_unique(text: str, field: str) -> None:
    """Refuse an object with a member twice. pydantic takes the last one, and other parsers take the first."""
    try:
        check_unique(text)
    except ValueError as error:
        raise InputMismatch([("", str(error))], field) from error
    except RecursionError as error:
        raise InputMismatch([("", "is nested too deeply")], field) from error


def _check_well_formed(payload: Payload, field: str) -> None:
    kind = payload.WhichOneof("kind")
    if kind == "json":
        try:
            # The workflow reads it with the same parser, which has the same limit of depth.
            value = from_json(payload.json, allow_inf_nan=False)
        except ValueError as error:
            raise InputMismatch([("", f"must be valid JSON: {error}")], field) from error
        _check_unique(payload.json, field)
        problem = not_finite(value) if may_overflow(payload.json) else None
        if problem is not None:
            raise InputMismatch([problem], field)
    elif kind == "message" and not payload.message.TypeName():
        raise InputMismatch([("message.type_url", "must name a message type")], field)


def _is_null(payload: Payload) -> bool:
    kind = payload.WhichOneof("kind")
    return kind is None or (kind == "json" and payload.json.strip(" \t\r\n") == "null")


def _check_size(field: str, payload: Payload, settings: Settings) -> None:
    size = oversize(payload, settings.payload_limit)
    if size:
        raise TooLarge(field, size, settings.payload_limit)


def _check_workflow_id(violations: Violations, workflow_id: str, settings: Settings) -> None:
    if workflow_id:
        _check_id(violations, "workflow_id", workflow_id, settings.workflow_id_length)
    else:
        violations.append(("workflow_id", "is required"))


def _check_id(violations: Violations, field: str, text: str, length: int) -> None:
    if len(text) > length or not _is_id(text):
        violations.append(
            (field, f"must be 1 to {length} characters of A-Z a-z 0-9 . _ : / @ + - and start with a letter or digit")
        )


def _check_text(violations: Violations, field: str, text: str, length: int) -> None:
    if len(text) > length:
        violations.append((field, f"{len(text)} characters exceeds the limit of {length}"))
    if "\0" in text:
        violations.append((field, "must not contain the character NUL"))


def _check_labels(violations: Violations, labels: Mapping[str, str], settings: Settings) -> dict[str, str]:
    if len(labels) > settings.labels_limit:
        violations.append(("labels", f"{len(labels)} labels exceeds the limit of {settings.labels_limit}"))
    for name, value in labels.items():
        if len(name) > _LABEL_NAME_LENGTH or not _is_label_name(name):
            violations.append(
                (
                    f'labels["{name}"]',
                    f"the name must be 1 to {_LABEL_NAME_LENGTH} characters of a-z A-Z 0-9 . _ / -",
                )
            )
        _check_text(violations, f'labels["{name}"]', value, _LABEL_VALUE_LENGTH)
    return dict(labels)


def _check_wait(violations: Violations, wait: Duration, settings: Settings) -> float:
    seconds, nanos = wait.seconds, wait.nanos
    if seconds < 0 or nanos < 0:
        violations.append(("wait", "must not be negative"))
    elif nanos >= _NANOS:
        violations.append(("wait", "nanos must be less than 1,000,000,000"))
    elif seconds + nanos / _NANOS > settings.wait_limit:
        violations.append(("wait", f"must be at most {settings.wait_limit:g} s"))
    return seconds + nanos / _NANOS


def _check_page_size(violations: Violations, page_size: int, settings: Settings) -> int:
    if page_size < 0:
        violations.append(("page_size", "must not be negative"))
    return min(page_size or _DEFAULT_PAGE, settings.page_limit)


def _check_enum(
    violations: Violations, field: str, numbers: Iterable[int], known: Collection[int], enum_name: str
) -> None:
    for index, number in enumerate(numbers):
        if number not in known:
            problem = "must not be UNSPECIFIED" if number == 0 else f"{number} is not a value of {enum_name}"
            violations.append((f"{field}[{index}]", problem))


def _check_time(violations: Violations, field: str, moment: Timestamp) -> int:
    seconds, nanos = moment.seconds, moment.nanos
    if not _EARLIEST_SECOND <= seconds <= _LATEST_SECOND:
        violations.append((field, "must be in the years 1 to 9999"))
    if not 0 <= nanos < _NANOS:
        violations.append((field, "nanos must be from 0 to 999,999,999"))
    # Round up. The store has whole microseconds, so "at or after" and "before" stay exact.
    return seconds * 1_000_000 + -(-nanos // 1000)


def _raise(violations: Violations) -> None:
    if violations:
        raise InvalidFields(violations)
