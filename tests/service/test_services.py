"""The services behind a real gRPC server: how a caller sees the engine's replies.

The engine is a stand-in. These tests need an engine that fails at moments at which a real one cannot be made to fail,
and they test only the services. The other tests in tests/service run the real server.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mendflow.v1 import (
    event_pb2,
    workflow_pb2,
)
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow_server.api.server import SERVICE_NAMES
from tests.support.stub_engine import Door, every_call, raw, refusal, refused_by, text


async def test_start_returns_the_workflow_and_starts_it_once(door: Door) -> None:
    request = ws.StartWorkflowRequest(
        workflow_id="w", workflow_type="echo", input=text('"hello"'), labels={"team": "a"}
    )
    first = await door.stub.StartWorkflow(request)
    again = await door.stub.StartWorkflow(request)
    assert (first.started, again.started) == (True, False)
    assert first.workflow.workflow_id == again.workflow.workflow_id == "w"
    assert first.workflow.create_time.ToMicroseconds() == door.engine.rows["w"].create_time
    assert first.workflow.labels == {"team": "a"}
    assert not first.workflow.HasField("input")
    command = door.engine.commands["w"]
    assert (command.argument, command.input, command.trace.trace_id) == ("hello", text('"hello"'), "1" * 32)


async def test_start_that_waits_returns_the_output(door: Door) -> None:
    request = ws.StartWorkflowRequest(workflow_id="w", workflow_type="echo", input=text('"hello"'))
    request.wait.seconds = 5
    answer = await door.stub.StartWorkflow(request)
    assert answer.workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
    assert answer.workflow.output.json == '"hello"'
    assert not answer.workflow.HasField("input")
    # Also without a wait, once the workflow has ended.
    request.ClearField("wait")
    assert (await door.stub.StartWorkflow(request)).workflow.output.json == '"hello"'


async def test_start_without_ids_creates_a_new_workflow_each_time(door: Door) -> None:
    request = ws.StartWorkflowRequest(workflow_type="nothing")
    answers = [await door.stub.StartWorkflow(request) for _ in range(3)]
    assert len({answer.workflow.workflow_id for answer in answers}) == 3
    request.request_id = "r"
    answers = [await door.stub.StartWorkflow(request) for _ in range(3)]
    assert [answer.started for answer in answers] == [True, False, False]


async def test_a_batch_has_an_outcome_for_each_in_order(door: Door) -> None:
    door.engine.add("taken", "nothing")
    starts = [
        ws.StartWorkflowRequest(workflow_id="a", workflow_type="echo", input=text('"x"')),
        ws.StartWorkflowRequest(workflow_id="-", workflow_type="echo", input=text('"x"')),
        ws.StartWorkflowRequest(workflow_id="b", workflow_type="echo", input=text("7")),
        ws.StartWorkflowRequest(workflow_id="taken", workflow_type="echo", input=text('"x"')),
        ws.StartWorkflowRequest(workflow_id="c", workflow_type="missing"),
        ws.StartWorkflowRequest(workflow_id="a", workflow_type="echo", input=text('"x"')),
    ]
    answer = await door.stub.BatchStartWorkflows(ws.BatchStartWorkflowsRequest(requests=starts))
    seen = [
        refused_by(outcome.error, "").reason if outcome.HasField("error") else str(outcome.response.started)
        for outcome in answer.outcomes
    ]
    assert seen == ["True", "INVALID_FIELD", "INPUT_MISMATCH", "ALREADY_STARTED", "UNKNOWN_WORKFLOW_TYPE", "False"]
    assert door.engine.done == ["a"]


async def test_the_largest_batch_fits_into_a_clients_message_limit(door: Door) -> None:
    labels = {f"{index:063}": "\U0001f600" * 255 for index in range(32)}
    door.engine.add("large", labels=labels)
    start = ws.StartWorkflowRequest(workflow_id="large", workflow_type="echo", input=text('"x"'))
    bad = ws.StartWorkflowRequest(workflow_type="x" * 200, workflow_id="y" * 300, request_id="z" * 300)
    answer = await door.stub.BatchStartWorkflows(ws.BatchStartWorkflowsRequest(requests=[start, bad] * 250))
    assert len(answer.outcomes) == 500
    assert dict(answer.outcomes[0].response.workflow.labels) == labels
    assert answer.outcomes[498].response.workflow.workflow_id == "large"
    assert refused_by(answer.outcomes[499].error, "").reason == "INVALID_FIELD"


async def test_lists_continue_from_page_to_page_and_fit_into_a_clients_message_limit(door: Door) -> None:
    labels = {f"{index:063}": "\U0001f600" * 255 for index in range(32)}
    ids = [f"w-{index}" for index in range(200)]
    for workflow_id in ids:
        door.engine.add(workflow_id, labels=labels)
    request = ws.ListWorkflowsRequest(page_size=1_000)
    seen: list[str] = []
    pages = 0
    while True:
        page = await door.stub.ListWorkflows(request)
        seen += [listed.workflow_id for listed in page.workflows]
        pages += 1
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ids[::-1]
    assert 2 < pages < 20


async def test_events_continue_from_page_to_page_to_the_newest(door: Door) -> None:
    row = door.engine.add("w")
    for sequence in range(2, 8):
        door.engine.events[row.key].append(
            event_pb2.Event(sequence=sequence, progress_reported=event_pb2.ProgressReported(message="x" * 900_000))
        )
    row.last_sequence = 7
    request = ws.ListEventsRequest(workflow_id="w")
    seen: list[int] = []
    while True:
        page = await door.stub.ListEvents(request)
        seen += [event.sequence for event in page.events]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    door.engine.add("other")
    request.workflow_id = "other"
    assert (await refusal(door.stub.ListEvents(request))).reason == "INVALID_PAGE_TOKEN"


async def test_get_returns_input_and_output(door: Door) -> None:
    door.engine.end(door.engine.add("w"))
    found = (await door.stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id="w"))).workflow
    assert (found.input.json, found.output.json) == ('"hello"', '"hello"')
    assert found.end_time.ToMicroseconds() == door.engine.rows["w"].end_time


async def test_types_are_listed_by_name_in_pages(door: Door) -> None:
    first = await door.stub.ListWorkflowTypes(ws.ListWorkflowTypesRequest(page_size=1))
    assert [found.name for found in first.workflow_types] == ["echo"]
    rest = await door.stub.ListWorkflowTypes(ws.ListWorkflowTypesRequest(page_token=first.next_page_token))
    assert [found.name for found in rest.workflow_types] == ["nothing"]
    assert not rest.next_page_token
    described = first.workflow_types[0]
    assert described.description == "Return its input."
    assert '"string"' in described.input.json_schema
    assert '"integer"' in described.signals["go"].json_schema
    assert not rest.workflow_types[0].HasField("input")


async def test_server_info_publishes_the_limits(door: Door) -> None:
    info = await door.stub.GetServerInfo(ws.GetServerInfoRequest())
    assert (info.version, info.replica_id, info.start_time.ToMilliseconds()) == (
        "1.2.3",
        "replica-1",
        1_700_000_000_250,
    )
    limits = info.limits
    assert (limits.payload_bytes, limits.batch_size, limits.wait.seconds, limits.labels) == (1_000, 500, 60, 32)
    unset = [field.name for field in limits.DESCRIPTOR.fields if not getattr(limits, field.name)]
    assert unset == []


async def test_declared_signals_are_checked(door: Door) -> None:
    door.engine.add("w")
    wrong = ws.SignalWorkflowRequest(workflow_id="w", name="go", data=text('"x"'))
    assert (await refusal(door.stub.SignalWorkflow(wrong))).fields == ["data"]
    await door.stub.SignalWorkflow(ws.SignalWorkflowRequest(workflow_id="w", name="go", data=text("7")))
    assert door.engine.done == ["go by ipv4"]


async def test_an_undeclared_signal_of_a_type_that_declares_signals_is_refused(door: Door) -> None:
    door.engine.add("w")
    request = ws.SignalWorkflowRequest(workflow_id="w", name="og", data=text('"x"'))
    refused = await refusal(door.stub.SignalWorkflow(request))
    assert (refused.code, refused.reason, refused.fields) == ("INVALID_ARGUMENT", "INVALID_FIELD", ["name"])
    assert refused.message == (
        'name: workflow type "echo" declares the signals go, but not "og"; '
        "set allow_undeclared to send it anyway (--force at the command line)"
    )
    assert door.engine.done == []
    request.allow_undeclared = True
    await door.stub.SignalWorkflow(request)
    assert door.engine.done == ["og by ipv4"]


@pytest.mark.parametrize("workflow_type", ["nothing", "left_out"])
async def test_a_signal_of_a_type_without_declared_signals_is_not_checked(door: Door, workflow_type: str) -> None:
    door.engine.add("w", workflow_type=workflow_type)
    await door.stub.SignalWorkflow(ws.SignalWorkflowRequest(workflow_id="w", name="og", data=text('"x"')))
    assert door.engine.done == ["og by ipv4"]


@pytest.mark.parametrize(
    "name",
    [
        "StartWorkflow", "SignalWorkflow", "CancelWorkflow", "ResumeWorkflow", "TerminateWorkflow", "HoldWorkflow",
        "ReleaseWorkflow", "DeleteWorkflow", "Batch",
    ],
)  # fmt: skip
async def test_a_caller_that_disconnects_does_not_undo_a_started_call(door: Door, name: str) -> None:
    door.engine.add("w")
    door.engine.gate = asyncio.Event()
    batch = ws.BatchStartWorkflowsRequest(requests=[ws.StartWorkflowRequest(workflow_type="nothing")])
    calls = every_call(door) | {"Batch": lambda: door.stub.BatchStartWorkflows(batch)}
    call = calls[name]()
    async with asyncio.timeout(30):
        await door.engine.entered.wait()
        call.cancel()
        # These use the same connection, so the server knows of the cancel when it replies to them.
        for _ in range(3):
            await door.stub.GetServerInfo(ws.GetServerInfoRequest())
        assert door.engine.done == []
        door.engine.gate.set()
        await door.engine.finished.wait()
    assert len(door.engine.done) == 1


async def test_a_watch_streams_and_is_closed_when_the_caller_disconnects(door: Door) -> None:
    door.engine.add("w")
    watch: Any = door.stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id="w"))
    frame = await watch.read()
    assert [event.sequence for event in frame.events] == [1]
    assert door.engine.watches_open == 1
    watch.cancel()
    async with asyncio.timeout(30):
        await door.engine.watch_closed.wait()
    assert door.engine.watches_open == 0


async def test_a_watch_ends_ok_after_the_end_and_is_refused_beyond_it(door: Door) -> None:
    door.engine.end(door.engine.add("w"))
    watch = door.stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id="w"))
    assert [event.sequence async for frame in watch for event in frame.events] == [1, 2]
    assert await watch.code() == grpc.StatusCode.OK
    found = await refusal(door.stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id="w", after_sequence=3)))
    assert (found.code, found.reason, found.metadata) == ("OUT_OF_RANGE", "SEQUENCE_BEYOND_END", {"last_sequence": "2"})


async def test_statuses_that_a_handler_sends_itself_are_not_changed(door: Door) -> None:
    stub: Any = health_pb2_grpc.HealthStub(door.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="missing"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(door.channel.unary_unary)("/mendflow.v1.WorkflowService/Missing", None, None)(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_lists_the_services_and_their_files(door: Door) -> None:
    channel: Any = door.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in SERVICE_NAMES),
            ]
        )
    )
    answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {*SERVICE_NAMES, "grpc.health.v1.Health"} <= names
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in answers[1:])


async def test_reflection_finds_every_kind_of_symbol(door: Door) -> None:
    sorts = [
        "Workflow",
        "Workflow.state",
        "WorkflowState",
        "WorkflowService.StartWorkflow",
        "OperatorService.ResumeWorkflow",
    ]
    unknown = ["WorkflowService.Nothing", "UnknownService.StartWorkflow", "Workflow.Nothing"]
    channel: Any = door.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"mendflow.v1.{name}") for name in sorts + unknown
    ]
    answers = [answer.WhichOneof("message_response") async for answer in stub.ServerReflectionInfo(iter(asked))]
    assert answers == ["file_descriptor_response"] * len(sorts) + ["error_response"] * len(unknown)
