"""Clear refusal: bad input to every rpc gets its code, reason and field, and does not change the store.

Uses the fixture ``server`` (tests/conftest.py): a running server that serves
tests/support/workflows.py, with ``stub`` and ``operator``, the two services' stubs, and
``channel``, the grpc.aio channel they use.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.operator_service_pb2 import ResumeWorkflowRequest, TerminateWorkflowRequest
from mendflow.v1.payload_pb2 import Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from mendflow.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub
    from mendflow.v1.workflow_service_pb2_grpc import WorkflowServiceAsyncStub


class Server(Protocol):
    """The part of the fixture that these tests need."""

    channel: grpc.aio.Channel
    stub: WorkflowServiceAsyncStub
    operator: OperatorServiceAsyncStub


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
        "a malformed request id",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="go", request_id=BAD_ID),
        *INVALID,
        ("request_id",),
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
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.ended, name="other"),
        *ENDED,
        metadata=SUCCEEDED,
    ),
    Case(
        "no JSON",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="other", data=json("[")),
        *MISMATCH,
        ("data",),
    ),
    Case(
        "oversize data",
        "SignalWorkflow",
        lambda w: ws.SignalWorkflowRequest(workflow_id=w.waiting, name="other", data=OVERSIZE),
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
]

CASES = START + READ + ACT
CONCERNS_A_WORKFLOW = {"WORKFLOW_NOT_FOUND", "ALREADY_STARTED", "WORKFLOW_ENDED", "WRONG_STATE", "SEQUENCE_BEYOND_END"}


@pytest.fixture
async def world(server: Server) -> World:
    unique = uuid.uuid4().hex
    ended = echo(workflow_id=f"ended-{unique}", wait=Duration(seconds=30))
    answer = await server.stub.StartWorkflow(ended)
    assert answer.workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
    waiting = f"waiting-{unique}"
    await server.stub.StartWorkflow(echo(workflow_id=waiting, workflow_type="wait_for"))
    async with asyncio.timeout(30):
        watch = server.stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id=waiting))
        async for frame in watch:
            if any(event.HasField("signal_awaited") for event in frame.events):
                break
        watch.cancel()
    workflows = await server.stub.ListWorkflows(ws.ListWorkflowsRequest(page_size=1))
    events = await server.stub.ListEvents(ws.ListEventsRequest(workflow_id=ended.workflow_id, page_size=1))
    types = await server.stub.ListWorkflowTypes(ws.ListWorkflowTypesRequest(page_size=1))
    assert workflows.next_page_token
    assert events.next_page_token
    assert types.next_page_token
    return World(
        ended=ended.workflow_id,
        waiting=waiting,
        missing=f"missing-{unique}",
        workflows_token=workflows.next_page_token,
        events_token=events.next_page_token,
        types_token=types.next_page_token,
    )


async def everything(server: Server) -> dict[str, tuple[str, list[str]]]:
    """Return every workflow and every event as text."""
    found: dict[str, tuple[str, list[str]]] = {}
    request = ws.ListWorkflowsRequest(page_size=1_000)
    while True:
        page = await server.stub.ListWorkflows(request)
        for workflow in page.workflows:
            found[workflow.workflow_id] = (str(workflow), await all_events(server, workflow.workflow_id))
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def all_events(server: Server, workflow_id: str) -> list[str]:
    request = ws.ListEventsRequest(workflow_id=workflow_id, page_size=1_000)
    events: list[str] = []
    while True:
        page = await server.stub.ListEvents(request)
        events += [str(event) for event in page.events]
        if not page.next_page_token:
            return events
        request.page_token = page.next_page_token


def make_call(server: Server, rpc: str, request: Message) -> Any:
    """Start the call. For a stream, read its first frame."""
    method = getattr(server.stub, rpc, None) or getattr(server.operator, rpc)
    call = method(request)
    return call.read() if hasattr(call, "read") else call


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Return the details of a status by the short names of their messages."""
    metadata: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found: dict[str, Any] = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(found[name])
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rpc}: {case.name}")
async def test_bad_input_is_refused_clearly_and_changes_nothing(server: Server, world: World, case: Case) -> None:
    before = await everything(server)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await make_call(server, case.rpc, case.request(world))
    details = details_of(caught.value)
    info = details["ErrorInfo"]
    assert (caught.value.code().name, info.reason, info.domain) == (case.code, case.reason, "mendflow")
    fields = [violation.field for violation in details["BadRequest"].field_violations] if case.fields else []
    if case.reason == "INPUT_MISMATCH":
        assert fields
        assert {field.partition(".")[0].partition("[")[0] for field in fields} == set(case.fields)
    else:
        assert fields == list(case.fields)
    if case.metadata is not None:
        assert dict(info.metadata) == case.metadata
    if case.reason in CONCERNS_A_WORKFLOW:
        assert details["ResourceInfo"].resource_name == case.request(world).workflow_id  # type: ignore[attr-defined]
    assert await everything(server) == before


def test_every_rpc_with_a_field_is_in_the_table(server: Server) -> None:
    methods = {
        method.name
        for service in (ws.DESCRIPTOR.services_by_name["WorkflowService"], operator_service())
        for method in service.methods
        if method.input_type.fields
    }
    assert {case.rpc for case in CASES} == methods


def operator_service() -> Any:
    return ResumeWorkflowRequest.DESCRIPTOR.file.services_by_name["OperatorService"]


async def test_one_refusal_in_a_batch_does_not_affect_the_others(server: Server) -> None:
    good = uuid.uuid4().hex
    requests = [echo(workflow_id=good), echo(workflow_type="ecko"), echo(workflow_id=BAD_ID), echo(input=OVERSIZE)]
    answer = await server.stub.BatchStartWorkflows(ws.BatchStartWorkflowsRequest(requests=requests))
    assert [outcome.WhichOneof("outcome") for outcome in answer.outcomes] == ["response", "error", "error", "error"]
    assert answer.outcomes[0].response.started
    assert {outcome.error.code for outcome in answer.outcomes[1:]} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert (await server.stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id=good))).workflow.workflow_id == good


async def test_bytes_that_are_no_message_are_refused_as_bad_input(server: Server, world: World) -> None:
    before = await everything(server)
    for service in (ws.DESCRIPTOR.services_by_name["WorkflowService"], operator_service()):
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            open_call: Any = server.channel.unary_stream if method.server_streaming else server.channel.unary_unary
            call: Any = open_call(path, None, None)(b"\x0a\x02\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call.read() if hasattr(call, "read") else call)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert details_of(caught.value)["ErrorInfo"].reason == "INVALID_FIELD"
    assert await everything(server) == before


async def test_a_start_whose_caller_disconnects_is_whole_or_absent(server: Server) -> None:
    """Cancel the call at several times after its start: the workflow is either whole or absent."""
    for microseconds in (0, 100, 300, 1_000, 3_000, 10_000):
        workflow_id = uuid.uuid4().hex
        request = echo(workflow_id=workflow_id)
        call: Any = server.stub.StartWorkflow(request)
        answered = asyncio.ensure_future(call.wait_for_connection())
        await asyncio.wait({answered}, timeout=microseconds / 1e6)
        call.cancel()
        await asyncio.gather(answered, return_exceptions=True)
        # A retry gets the same workflow, which then ends.
        request.wait.seconds = 30
        answer = await server.stub.StartWorkflow(request)
        assert answer.workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        events = await all_events(server, workflow_id)
        assert sum("workflow_started" in event for event in events) == 1
