"""The services behind a real gRPC server: how a caller sees the engine's replies and refusals.

The engine is a stand-in. These tests need an engine that fails at moments at which a real one cannot be made to fail,
and they test only the services. The other tests in tests/service run the real server.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from mendflow import workflow
from mendflow.v1 import (
    event_pb2,
    operator_service_pb2_grpc,
    workflow_pb2,
    workflow_service_pb2_grpc,
)
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.operator_service_pb2 import ResumeWorkflowRequest, TerminateWorkflowRequest
from mendflow.v1.payload_pb2 import Payload
from mendflow_server import errors
from mendflow_server.api.operator_service import OperatorService
from mendflow_server.api.server import SERVICE_NAMES, CannotListen, build_grpc_server
from mendflow_server.api.workflow_service import WorkflowService
from mendflow_server.engine.requests import Snapshot, StartResult
from mendflow_server.settings import load_settings
from mendflow_server.store.errors import CommitUnknown, StoreUnavailable
from mendflow_server.store.records import Cursor, Filter, Page, Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.execution.start_command import StartCommand

# The stubs know the synchronous half only.
HEALTH: Any = health


@workflow(signals={"go": int})
async def echo(value: str) -> str:
    """Return its input."""
    return value


@workflow
async def nothing() -> None:
    """Take no input."""


#: The defaults, with a small payload and batch.
SETTINGS = load_settings(payload_limit=1_000, batch_limit=500)


@dataclass
class Engine:
    """A stand-in for the engine that keeps workflows in a dict."""

    definitions: Mapping[str, Workflow[Any, Any]] = field(default_factory=lambda: {"echo": echo, "nothing": nothing})
    replica_id: str = "replica-1"
    start_time: float = 1_700_000_000.25
    rows: dict[str, Row] = field(default_factory=dict)
    commands: dict[str, StartCommand] = field(default_factory=dict)
    events: dict[int, list[event_pb2.Event]] = field(default_factory=dict)
    #: Raised by every verb when set.
    fault: Exception | None = None
    #: When set, verbs wait for it before they answer.
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    done: list[str] = field(default_factory=list)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    watches_open: int = 0
    watch_closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def _pass(self) -> None:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault

    def _finish(self, what: str) -> None:
        self.done.append(what)
        self.finished.set()

    def start(self, command: StartCommand) -> asyncio.Future[StartResult]:
        return asyncio.shield(self._start(command))  # As in the real engine, cancelling the future stops nothing.

    async def _start(self, command: StartCommand) -> StartResult:
        await self._pass()
        workflow_id = command.workflow_id
        if workflow_id in self.rows:
            if self.rows[workflow_id].workflow_type != command.definition.name:
                raise errors.AlreadyStarted(workflow_id, "type")
            return StartResult(self.rows[workflow_id], started=False)
        self.commands[workflow_id] = command
        self._finish(workflow_id)
        return StartResult(self.add(workflow_id, command.definition.name, command.labels), started=True)

    def add(self, workflow_id: str, workflow_type: str = "echo", labels: dict[str, str] | None = None) -> Row:
        key = len(self.rows) + 1
        row = Row(
            key=key,
            workflow_id=workflow_id,
            uid=f"{key:032x}",
            workflow_type=workflow_type,
            state=workflow_pb2.WORKFLOW_STATE_RUNNING,
            reason=0,
            explanation="",
            generation=1,
            replica_id=self.replica_id,
            last_sequence=1,
            wake_time=None,
            create_time=1_700_000_000_123_456 + key,
            end_time=None,
            untaken_signals=0,
            trace_id="0" * 32,
            labels=dict(labels or {}),
        )
        started = event_pb2.Event(sequence=1)
        started.workflow_started.workflow_type = workflow_type
        started.workflow_started.input.json = '"hello"'
        self.events[key] = [started]
        self.rows[workflow_id] = row
        return row

    def end(self, row: Row) -> None:
        final = event_pb2.Event(sequence=row.last_sequence + 1)
        final.workflow_succeeded.output.json = '"hello"'
        self.events[row.key].append(final)
        row.last_sequence += 1
        row.state = workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        row.end_time = row.create_time + 1

    async def wait_for_capacity(self) -> None:
        """Return at once."""

    async def wait_end(self, row: Row, seconds: float) -> Snapshot:
        if seconds and row.end_time is None:
            self.end(row)
        return self._ending(row)

    def _ending(self, row: Row) -> Snapshot:
        events = self.events[row.key]
        return Snapshot(row, events[0], events[-1] if row.end_time is not None else None)

    async def start_and_wait(self, command: StartCommand) -> StartResult:
        result = await self.start(command)
        if not (command.wait or result.row.end_time):
            return result
        snapshot = await self.wait_end(result.row, command.wait)
        return StartResult(snapshot.row, result.started, snapshot.final)

    async def get(self, workflow_id: str, *, wait: float) -> Snapshot:
        return await self.wait_end(await self.find(workflow_id), wait)

    async def find(self, workflow_id: str) -> Row:
        await self._pass()
        if workflow_id not in self.rows:
            raise errors.WorkflowNotFound(workflow_id)
        return self.rows[workflow_id]

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        await self._pass()
        rows = sorted(self.rows.values(), key=lambda row: -row.key)
        rows = [row for row in rows if after is None or row.key < after.key]
        rows = [row for row in rows if not condition.workflow_type or row.workflow_type == condition.workflow_type]
        following = Cursor(rows[limit - 1].create_time, rows[limit - 1].key) if len(rows) > limit else None
        return Page(rows[:limit], following)

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        found: list[bytes] = []
        for event in self.events[key][after_sequence:]:
            data = event.SerializeToString()
            if found and (len(found) == limit or sum(map(len, found)) + len(data) > max_bytes):
                break
            found.append(data)
        return found

    async def signal(self, workflow_id: str, *, name: str, data: Payload | None, request_id: str, actor: str) -> bool:
        del data, request_id
        await self.find(workflow_id)
        self._finish(f"{name} by {actor.partition(':')[0]}")
        return False

    async def cancel(self, workflow_id: str, *, reason: str, request_id: str, actor: str) -> Row:
        del reason, request_id, actor
        row = await self.find(workflow_id)
        self._finish("cancel")
        return row

    async def resume(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        return await self.cancel(workflow_id, reason=reason, request_id="", actor=actor)

    async def terminate(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        return await self.cancel(workflow_id, reason=reason, request_id="", actor=actor)

    async def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int]
    ) -> AsyncIterator[ws.WatchWorkflowResponse]:
        del kinds
        row = await self.find(workflow_id)
        if after_sequence > row.last_sequence:
            raise errors.SequenceBeyondEnd(workflow_id, after_sequence, row.last_sequence)
        self.watches_open += 1
        try:
            yield ws.WatchWorkflowResponse(
                events=self.events[row.key][after_sequence:], last_sequence=row.last_sequence
            )
            if row.end_time is None:
                await asyncio.Event().wait()
        finally:
            self.watches_open -= 1
            self.watch_closed.set()


@dataclass
class Door:
    """A running server and a channel to it."""

    engine: Engine
    channel: grpc.aio.Channel
    stub: workflow_service_pb2_grpc.WorkflowServiceAsyncStub
    operator: operator_service_pb2_grpc.OperatorServiceAsyncStub
    port: int


@asynccontextmanager
async def serving() -> AsyncIterator[Door]:
    engine = Engine()
    server, port = build_grpc_server(
        SETTINGS,
        "127.0.0.1:0",
        workflow_service=WorkflowService(
            engine, SETTINGS, trace=lambda _: event_pb2.TraceContext(trace_id="1" * 32), version="1.2.3"
        ),
        operator_service=OperatorService(engine, SETTINGS),
        health_servicer=HEALTH.aio.HealthServicer(),
    )
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Door(
                engine,
                channel,
                workflow_service_pb2_grpc.WorkflowServiceStub(channel),
                operator_service_pb2_grpc.OperatorServiceStub(channel),
                port,
            )
    finally:
        await server.stop(None)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with serving() as running:
        yield running


@dataclass
class Refused:
    """A status as the caller received it."""

    code: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    resource: str
    retry: bool


def refused_by(status: status_pb2.Status, code: str) -> Refused:
    refused = Refused(code, "", {}, [], "", retry=False)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        resource = error_details_pb2.ResourceInfo()
        if detail.Unpack(info):
            assert info.domain == "mendflow"
            refused.reason, refused.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad_request):
            refused.fields = [violation.field for violation in bad_request.field_violations]
        elif detail.Unpack(resource):
            refused.resource = resource.resource_name
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            refused.retry = True
    return refused


def raw(method: Any) -> Any:
    """Return a channel's method for raw bytes. Its stubs lack this type."""
    return method


async def refusal(call: Any) -> Refused:
    """Make the call, which the server must refuse, and return the refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    error = caught.value
    metadata: Any = error.trailing_metadata()
    status = status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return refused_by(status, error.code().name)


def text(value: str) -> Payload:
    return Payload(json=value)


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


async def test_declared_signals_are_checked_and_others_are_not(door: Door) -> None:
    door.engine.add("w")
    wrong = ws.SignalWorkflowRequest(workflow_id="w", name="go", data=text('"x"'))
    assert (await refusal(door.stub.SignalWorkflow(wrong))).fields == ["data"]
    await door.stub.SignalWorkflow(ws.SignalWorkflowRequest(workflow_id="w", name="go", data=text("7")))
    await door.stub.SignalWorkflow(ws.SignalWorkflowRequest(workflow_id="w", name="other", data=text('"x"')))
    assert door.engine.done == ["go by ipv4", "other by ipv4"]


def every_call(door: Door) -> dict[str, Callable[[], Any]]:
    """Return a function that makes a valid call, for each rpc that reaches the engine."""
    stub, operator = door.stub, door.operator
    return {
        "StartWorkflow": lambda: stub.StartWorkflow(ws.StartWorkflowRequest(workflow_type="nothing")),
        "WatchWorkflow": lambda: stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id="w")),
        "GetWorkflow": lambda: stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id="w")),
        "ListWorkflows": lambda: stub.ListWorkflows(ws.ListWorkflowsRequest()),
        "ListEvents": lambda: stub.ListEvents(ws.ListEventsRequest(workflow_id="w")),
        "SignalWorkflow": lambda: stub.SignalWorkflow(ws.SignalWorkflowRequest(workflow_id="w", name="x")),
        "CancelWorkflow": lambda: stub.CancelWorkflow(ws.CancelWorkflowRequest(workflow_id="w")),
        "ResumeWorkflow": lambda: operator.ResumeWorkflow(ResumeWorkflowRequest(workflow_id="w")),
        "TerminateWorkflow": lambda: operator.TerminateWorkflow(TerminateWorkflowRequest(workflow_id="w")),
    }


@pytest.mark.parametrize("fault", [StoreUnavailable("disk full"), CommitUnknown("fsync"), errors.Draining()])
async def test_a_temporary_error_is_unavailable_with_a_delay(door: Door, fault: Exception) -> None:
    door.engine.fault = fault
    reason = "DRAINING" if isinstance(fault, errors.Draining) else "STORE_UNAVAILABLE"
    for call in every_call(door).values():
        found = await refusal(call())
        assert (found.code, found.reason, found.retry) == ("UNAVAILABLE", reason, True)


async def test_an_unforeseen_error_is_internal_and_logged_with_its_id(door: Door) -> None:
    door.engine.fault = KeyError("secret")
    for name, call in every_call(door).items():
        with capture_logs() as logs:
            found = await refusal(call())
        assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
        assert "secret" not in str(found)
        assert [(entry["error_id"], entry["exc_info"]) for entry in logs] == [
            (found.metadata["error_id"], door.engine.fault)
        ]
        assert logs[0]["method"].endswith(f"/{name}")


async def test_an_unforeseen_error_in_a_batch_touches_only_its_outcome(door: Door) -> None:
    door.engine.fault = KeyError("secret")
    batch = ws.BatchStartWorkflowsRequest(requests=[ws.StartWorkflowRequest(workflow_type="nothing")])
    with capture_logs():
        answer = await door.stub.BatchStartWorkflows(batch)
    assert refused_by(answer.outcomes[0].error, "").reason == "INTERNAL"


async def test_bytes_that_are_no_message_are_refused_as_bad_input(door: Door) -> None:
    for method in ("WorkflowService/StartWorkflow", "OperatorService/ResumeWorkflow", "WorkflowService/WatchWorkflow"):
        for garbage in (b"\xff\xff", b"\x0a\x02\xff\xff"):
            path = f"/mendflow.v1.{method}"
            if method.endswith("WatchWorkflow"):
                found = await refusal(raw(door.channel.unary_stream)(path, None, None)(garbage))
            else:
                found = await refusal(raw(door.channel.unary_unary)(path, None, None)(garbage))
            assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_refusal_with_the_nastiest_text_reaches_the_caller(door: Door) -> None:
    nasty = "\U0001f600\n\r%\t\"'" * 5_000
    request = ws.StartWorkflowRequest(workflow_id=nasty, workflow_type=nasty, request_id=nasty, labels={nasty: nasty})
    found = await refusal(door.stub.StartWorkflow(request))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    request = ws.StartWorkflowRequest(workflow_type=nasty)
    assert (await refusal(door.stub.StartWorkflow(request))).reason == "UNKNOWN_WORKFLOW_TYPE"


@pytest.mark.parametrize(
    "name", ["StartWorkflow", "SignalWorkflow", "CancelWorkflow", "ResumeWorkflow", "TerminateWorkflow", "Batch"]
)
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


async def test_a_port_in_use_is_a_clear_error(door: Door) -> None:
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{door.port}.*--grpc-address"):
        build_grpc_server(
            SETTINGS,
            f"127.0.0.1:{door.port}",
            workflow_service=WorkflowService(
                door.engine, SETTINGS, trace=lambda _: event_pb2.TraceContext(), version=""
            ),
            operator_service=OperatorService(door.engine, SETTINGS),
            health_servicer=HEALTH.aio.HealthServicer(),
        )


async def test_a_message_above_the_request_limit_is_refused_by_grpc(door: Door) -> None:
    request = ws.StartWorkflowRequest(workflow_type="echo", input=text('"' + "x" * (4 << 20) + '"'))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.stub.StartWorkflow(request)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert door.engine.done == []
