"""Bad requests to every rpc, each with the refusal that it must get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.operator_service_pb2 import (
    DeleteWorkflowRequest,
    HoldWorkflowRequest,
    ReleaseWorkflowRequest,
    ResumeWorkflowRequest,
    TerminateWorkflowRequest,
)
from mendflow.v1.payload_pb2 import Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message


@dataclass
class World:
    """The workflows and tokens that exist before the bad input arrives."""

    #: SUCCEEDED.
    ended: str
    #: WAITING for the signal "go".
    waiting: str
    #: No workflow has this id.
    missing: str
    #: A page token of the list of all workflows.
    workflows_token: str
    #: A page token of the ended workflow's events.
    events_token: str
    #: A page token of the list of types.
    types_token: str


@dataclass
class Case:
    """A request, and the refusal that it must get."""

    name: str
    rpc: str
    request: Callable[[World], Message]
    code: str
    reason: str
    #: The fields in order. For a mismatch, only the first part of each field counts.
    fields: tuple[str, ...] = ()
    metadata: dict[str, str] | None = None


BAD_ID = "not an id"
INVALID = ("INVALID_ARGUMENT", "INVALID_FIELD")
NOT_FOUND = ("NOT_FOUND", "WORKFLOW_NOT_FOUND")
ENDED = ("FAILED_PRECONDITION", "WORKFLOW_ENDED")
NOT_EXPORTED = (
    "FAILED_PRECONDITION",
    "MESSAGES_NOT_EXPORTED",
    (),
    {"command": "mendflow export-protos tests.support.workflows --out protos", "field": "input.message"},
)
MISMATCH = ("INVALID_ARGUMENT", "INPUT_MISMATCH")
TOKEN = ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")
SUCCEEDED = {"state": "SUCCEEDED"}
OVERSIZE = Payload(json='"' + "x" * (1 << 20) + '"')


def echo(**fields: Any) -> ws.StartWorkflowRequest:
    """Return a start of ``echo`` that is valid apart from ``fields``."""
    return ws.StartWorkflowRequest(**{"workflow_type": "echo", "input": Payload(json='"x"'), **fields})


def batch(count: int, **fields: Any) -> ws.BatchStartWorkflowsRequest:
    return ws.BatchStartWorkflowsRequest(requests=[echo(**fields) for _ in range(count)])


def json(text: str) -> Payload:
    return Payload(json=text)


START = [
    Case("no type", "StartWorkflow", lambda w: echo(workflow_type=""), *INVALID, ("workflow_type",)),
    Case(
        "an unknown type",
        "StartWorkflow",
        lambda w: echo(workflow_type="ecko"),
        "INVALID_ARGUMENT",
        "UNKNOWN_WORKFLOW_TYPE",
        ("workflow_type",),
    ),
    Case("a number for text", "StartWorkflow", lambda w: echo(input=json("7")), *MISMATCH, ("input",)),
    Case("no input", "StartWorkflow", lambda w: ws.StartWorkflowRequest(workflow_type="echo"), *MISMATCH, ("input",)),
    Case("no JSON", "StartWorkflow", lambda w: echo(input=json("{")), *MISMATCH, ("input",)),
    Case("empty JSON", "StartWorkflow", lambda w: echo(input=json("")), *MISMATCH, ("input",)),
    Case("deep JSON", "StartWorkflow", lambda w: echo(input=json("[" * 200_000)), *MISMATCH, ("input",)),
    Case(
        "a message for JSON",
        "StartWorkflow",
        lambda w: echo(input=Payload(message=AnyMessage(type_url="type.googleapis.com/a.B"))),
        *NOT_EXPORTED,
    ),
    Case(
        "a message for nothing",
        "StartWorkflow",
        lambda w: ws.StartWorkflowRequest(
            workflow_type="nothing", input=Payload(message=AnyMessage(type_url="type.googleapis.com/a.B"))
        ),
        *NOT_EXPORTED,
    ),
    Case(
        "text for a record",
        "StartWorkflow",
        lambda w: echo(workflow_type="typed", input=json('"x"')),
        *MISMATCH,
        ("input",),
    ),
    Case(
        "an empty record",
        "StartWorkflow",
        lambda w: echo(workflow_type="typed", input=json("{}")),
        *MISMATCH,
        ("input",),
    ),
    Case(
        "a member twice",
        "StartWorkflow",
        lambda w: echo(workflow_type="typed", input=json('{"id": "a", "amount": 1, "amount": 2}')),
        *MISMATCH,
        ("input",),
    ),
    Case(
        "an oversize input",
        "StartWorkflow",
        lambda w: echo(input=OVERSIZE),
        "INVALID_ARGUMENT",
        "TOO_LARGE",
        ("input",),
    ),
    Case("a malformed id", "StartWorkflow", lambda w: echo(workflow_id=BAD_ID), *INVALID, ("workflow_id",)),
    Case("a long id", "StartWorkflow", lambda w: echo(workflow_id="a" * 201), *INVALID, ("workflow_id",)),
    Case("a malformed request id", "StartWorkflow", lambda w: echo(request_id=BAD_ID), *INVALID, ("request_id",)),
    Case("a malformed label", "StartWorkflow", lambda w: echo(labels={"a b": ""}), *INVALID, ('labels["a b"]',)),
    Case("33 labels", "StartWorkflow", lambda w: echo(labels={f"l{i}": "" for i in range(33)}), *INVALID, ("labels",)),
    Case("a long wait", "StartWorkflow", lambda w: echo(wait=Duration(seconds=61)), *INVALID, ("wait",)),
    Case("a negative wait", "StartWorkflow", lambda w: echo(wait=Duration(nanos=-1)), *INVALID, ("wait",)),
    Case(
        "an id taken by another type",
        "StartWorkflow",
        lambda w: echo(workflow_id=w.waiting),
        "ALREADY_EXISTS",
        "ALREADY_STARTED",
        metadata={"differs": "type"},
    ),
    Case(
        "an id taken by another input",
        "StartWorkflow",
        lambda w: echo(workflow_id=w.ended, input=json('"other"')),
        "ALREADY_EXISTS",
        "ALREADY_STARTED",
        metadata={"differs": "input"},
    ),
    Case("an empty batch", "BatchStartWorkflows", lambda w: batch(0), *INVALID, ("requests",)),
    Case("a large batch", "BatchStartWorkflows", lambda w: batch(1_001), *INVALID, ("requests",)),
    Case(
        "a wait in a batch", "BatchStartWorkflows", lambda w: batch(1, wait=Duration()), *INVALID, ("requests[0].wait",)
    ),
]

READ = [
    Case("no id", "GetWorkflow", lambda w: ws.GetWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case(
        "a malformed id", "GetWorkflow", lambda w: ws.GetWorkflowRequest(workflow_id=BAD_ID), *INVALID, ("workflow_id",)
    ),
    Case("an unknown id", "GetWorkflow", lambda w: ws.GetWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case(
        "an unknown id and a wait",
        "GetWorkflow",
        lambda w: ws.GetWorkflowRequest(workflow_id=w.missing, wait=Duration(seconds=60)),
        *NOT_FOUND,
    ),
    Case(
        "a long wait",
        "GetWorkflow",
        lambda w: ws.GetWorkflowRequest(workflow_id=w.ended, wait=Duration(seconds=60, nanos=1)),
        *INVALID,
        ("wait",),
    ),
    Case(
        "a malformed uid",
        "GetWorkflow",
        lambda w: ws.GetWorkflowRequest(workflow_id=w.ended, uid="x"),
        *INVALID,
        ("uid",),
    ),
    Case("another uid", "GetWorkflow", lambda w: ws.GetWorkflowRequest(workflow_id=w.ended, uid="0" * 32), *NOT_FOUND),
    Case(
        "a malformed uid",
        "WatchWorkflow",
        lambda w: ws.WatchWorkflowRequest(workflow_id=w.ended, uid="x"),
        *INVALID,
        ("uid",),
    ),
    Case(
        "another uid",
        "WatchWorkflow",
        lambda w: ws.WatchWorkflowRequest(workflow_id=w.ended, uid="0" * 32),
        *NOT_FOUND,
    ),
    Case("no id", "WatchWorkflow", lambda w: ws.WatchWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case("an unknown id", "WatchWorkflow", lambda w: ws.WatchWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case(
        "a negative cursor",
        "WatchWorkflow",
        lambda w: ws.WatchWorkflowRequest(workflow_id=w.waiting, after_sequence=-1),
        *INVALID,
        ("after_sequence",),
    ),
    Case(
        "a cursor beyond the end",
        "WatchWorkflow",
        lambda w: ws.WatchWorkflowRequest(workflow_id=w.waiting, after_sequence=10_000),
        "OUT_OF_RANGE",
        "SEQUENCE_BEYOND_END",
        ("after_sequence",),
    ),
    Case(
        "a cursor beyond the final event",
        "WatchWorkflow",
        lambda w: ws.WatchWorkflowRequest(workflow_id=w.ended, after_sequence=2**63 - 1),
        "OUT_OF_RANGE",
        "SEQUENCE_BEYOND_END",
        ("after_sequence",),
    ),
    Case(
        "an unspecified kind",
        "WatchWorkflow",
        lambda w: ws.WatchWorkflowRequest(workflow_id=w.waiting, kinds=[event_pb2.EVENT_KIND_UNSPECIFIED]),
        *INVALID,
        ("kinds[0]",),
    ),
    Case("a negative page", "ListWorkflows", lambda w: ws.ListWorkflowsRequest(page_size=-1), *INVALID, ("page_size",)),
    Case(
        "an unspecified state",
        "ListWorkflows",
        lambda w: ws.ListWorkflowsRequest(states=[workflow_pb2.WORKFLOW_STATE_UNSPECIFIED]),
        *INVALID,
        ("states[0]",),
    ),
    Case(
        "an unknown state",
        "ListWorkflows",
        lambda w: ws.ListWorkflowsRequest.FromString(b"\x22\x01\x63"),
        *INVALID,
        ("states[0]",),
    ),
    Case(
        "a malformed label",
        "ListWorkflows",
        lambda w: ws.ListWorkflowsRequest(labels={"": "x"}),
        *INVALID,
        ('labels[""]',),
    ),
    Case(
        "a time that is none",
        "ListWorkflows",
        lambda w: ws.ListWorkflowsRequest(create_time_from=Timestamp(nanos=-1)),
        *INVALID,
        ("create_time_from",),
    ),
    Case(
        "a garbage token", "ListWorkflows", lambda w: ws.ListWorkflowsRequest(page_token="x"), *TOKEN, ("page_token",)
    ),
    Case(
        "a token of another filter",
        "ListWorkflows",
        lambda w: ws.ListWorkflowsRequest(page_token=w.workflows_token, workflow_type="echo"),
        *TOKEN,
        ("page_token",),
    ),
    Case(
        "a token of another list",
        "ListWorkflows",
        lambda w: ws.ListWorkflowsRequest(page_token=w.events_token),
        *TOKEN,
        ("page_token",),
    ),
    Case("an unknown id", "ListEvents", lambda w: ws.ListEventsRequest(workflow_id=w.missing), *NOT_FOUND),
    Case("no id", "ListEvents", lambda w: ws.ListEventsRequest(), *INVALID, ("workflow_id",)),
    Case(
        "a negative page",
        "ListEvents",
        lambda w: ws.ListEventsRequest(workflow_id=w.ended, page_size=-1),
        *INVALID,
        ("page_size",),
    ),
    Case(
        "a token of another workflow",
        "ListEvents",
        lambda w: ws.ListEventsRequest(workflow_id=w.waiting, page_token=w.events_token),
        *TOKEN,
        ("page_token",),
    ),
    Case(
        "a token cut short",
        "ListEvents",
        lambda w: ws.ListEventsRequest(workflow_id=w.ended, page_token=w.events_token[:-2]),
        *TOKEN,
        ("page_token",),
    ),
    Case(
        "a token of another list",
        "ListEvents",
        lambda w: ws.ListEventsRequest(workflow_id=w.ended, page_token=w.types_token),
        *TOKEN,
        ("page_token",),
    ),
    Case(
        "a negative page",
        "ListWorkflowTypes",
        lambda w: ws.ListWorkflowTypesRequest(page_size=-1),
        *INVALID,
        ("page_size",),
    ),
    Case(
        "a token of another list",
        "ListWorkflowTypes",
        lambda w: ws.ListWorkflowTypesRequest(page_token=w.workflows_token),
        *TOKEN,
        ("page_token",),
    ),
]

ACT = [
    Case("no name", "SignalWorkflow", lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting), *INVALID, ("name",)),
    Case(
        "nothing at all",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(),
        *INVALID,
        ("workflow_id", "name"),
    ),
    Case(
        "an undeclared name",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="og"),
        *INVALID,
        ("name",),
    ),
    Case(
        "a malformed request id",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="go", request_id=BAD_ID),
        *INVALID,
        ("request_id",),
    ),
    Case(
        "a member twice",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(
            workflow_id=w.waiting, name="other", allow_undeclared=True, data=json('{"a": [{"b": 1, "b": 1}]}')
        ),
        *MISMATCH,
        ("data",),
    ),
    Case(
        "an unknown id",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.missing, name="go"),
        *NOT_FOUND,
    ),
    Case(
        "a signal after the end",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.ended, name="go", data=json('"x"')),
        *ENDED,
        metadata=SUCCEEDED,
    ),
    Case(
        "no JSON",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="other", allow_undeclared=True, data=json("[")),
        *MISMATCH,
        ("data",),
    ),
    Case(
        "oversize data",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="other", allow_undeclared=True, data=OVERSIZE),
        "INVALID_ARGUMENT",
        "TOO_LARGE",
        ("data",),
    ),
    Case("no id", "CancelWorkflow", lambda w: ws.CancelWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case(
        "a long reason",
        "CancelWorkflow",
        lambda w: ws.CancelWorkflowRequest(workflow_id=w.waiting, reason="x" * 1_001),
        *INVALID,
        ("reason",),
    ),
    Case("an unknown id", "CancelWorkflow", lambda w: ws.CancelWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case(
        "a succeeded one",
        "CancelWorkflow",
        lambda w: ws.CancelWorkflowRequest(workflow_id=w.ended),
        *ENDED,
        metadata=SUCCEEDED,
    ),
    Case("no id", "ResumeWorkflow", lambda w: ResumeWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case("an unknown id", "ResumeWorkflow", lambda w: ResumeWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case(
        "a succeeded one",
        "ResumeWorkflow",
        lambda w: ResumeWorkflowRequest(workflow_id=w.ended),
        *ENDED,
        metadata=SUCCEEDED,
    ),
    Case(
        "one that was never stopped",
        "ResumeWorkflow",
        lambda w: ResumeWorkflowRequest(workflow_id=w.waiting),
        "FAILED_PRECONDITION",
        "WRONG_STATE",
        metadata={"state": "WAITING"},
    ),
    Case("no id", "TerminateWorkflow", lambda w: TerminateWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case(
        "a long reason",
        "TerminateWorkflow",
        lambda w: TerminateWorkflowRequest(workflow_id=w.waiting, reason="x" * 1_001),
        *INVALID,
        ("reason",),
    ),
    Case("an unknown id", "TerminateWorkflow", lambda w: TerminateWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case(
        "a succeeded one",
        "TerminateWorkflow",
        lambda w: TerminateWorkflowRequest(workflow_id=w.ended),
        *ENDED,
        metadata=SUCCEEDED,
    ),
    Case("no id", "HoldWorkflow", lambda w: HoldWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case("an unknown id", "HoldWorkflow", lambda w: HoldWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case("no id", "ReleaseWorkflow", lambda w: ReleaseWorkflowRequest(), *INVALID, ("workflow_id",)),
    Case("an unknown id", "ReleaseWorkflow", lambda w: ReleaseWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case("no id", "DeleteWorkflow", lambda w: DeleteWorkflowRequest(uid="x"), *INVALID, ("workflow_id", "uid")),
    Case("an unknown id", "DeleteWorkflow", lambda w: DeleteWorkflowRequest(workflow_id=w.missing), *NOT_FOUND),
    Case(
        "another uid",
        "DeleteWorkflow",
        lambda w: DeleteWorkflowRequest(workflow_id=w.ended, uid="0" * 32),
        *NOT_FOUND,
    ),
    Case(
        "an open one",
        "DeleteWorkflow",
        lambda w: DeleteWorkflowRequest(workflow_id=w.waiting),
        "FAILED_PRECONDITION",
        "WRONG_STATE",
        metadata={"state": "WAITING"},
    ),
]

CASES = START + READ + ACT


def operator_service() -> Any:
    return ResumeWorkflowRequest.DESCRIPTOR.file.services_by_name["OperatorService"]
