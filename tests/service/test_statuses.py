"""Clear refusal: bad input to every rpc gets its code, reason and field, and does not change the store.

Uses the fixture ``server`` (tests/conftest.py): a running server that serves
tests/support/workflows.py, with ``stub`` and ``operator``, the two services' stubs, and
``channel``, the grpc.aio channel they use.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from mendflow.v1 import workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from tests.support.bad_requests import BAD_ID, CASES, OVERSIZE, Case, World, echo, operator_service

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mendflow.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub
    from mendflow.v1.workflow_service_pb2_grpc import WorkflowServiceAsyncStub


class Server(Protocol):
    """The part of the fixture that these tests need."""

    channel: grpc.aio.Channel
    stub: WorkflowServiceAsyncStub
    operator: OperatorServiceAsyncStub


CONCERNS_A_WORKFLOW = {
    "WORKFLOW_NOT_FOUND", "ALREADY_STARTED", "WORKFLOW_ENDED", "WRONG_STATE", "WORKFLOW_HELD", "SEQUENCE_BEYOND_END",
}  # fmt: skip


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
