"""A stand-in for the engine behind a real gRPC server, so that tests can make the engine fail at any moment."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health

from mendflow import workflow
from mendflow.v1 import (
    event_pb2,
    operator_service_pb2_grpc,
    workflow_pb2,
    workflow_service_pb2_grpc,
)
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.operator_service_pb2 import (
    DeleteWorkflowRequest,
    HoldWorkflowRequest,
    ReleaseWorkflowRequest,
    ResumeWorkflowRequest,
    TerminateWorkflowRequest,
)
from mendflow.v1.payload_pb2 import Payload
from mendflow_server import errors
from mendflow_server.api.operator_service import OperatorService
from mendflow_server.api.server import build_grpc_server
from mendflow_server.api.workflow_service import WorkflowService
from mendflow_server.engine.requests import Snapshot, StartResult
from mendflow_server.health.monitor import HealthStatus
from mendflow_server.settings import load_settings
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

    async def get(self, workflow_id: str, *, wait: float, uid: str) -> Snapshot:
        del uid
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

    async def set_held(self, workflow_id: str, *, held: bool, actor: str) -> Row:
        del actor
        row = await self.find(workflow_id)
        row.held = held
        self._finish("hold" if held else "release")
        return row

    async def delete(self, workflow_id: str, *, uid: str, actor: str) -> None:
        del uid, actor
        await self.find(workflow_id)
        del self.rows[workflow_id]
        self._finish("delete")

    async def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int], uid: str
    ) -> AsyncIterator[ws.WatchWorkflowResponse]:
        del kinds, uid
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
            engine,
            SETTINGS,
            trace=lambda _: event_pb2.TraceContext(trace_id="1" * 32),
            health=lambda: HealthStatus(ok=True),
            version="1.2.3",
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


@dataclass
class Refused:
    """A status as the caller received it."""

    code: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    resource: str
    retry: bool
    message: str


def refused_by(status: status_pb2.Status, code: str) -> Refused:
    refused = Refused(code, "", {}, [], "", retry=False, message=status.message)
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


def every_call(door: Door) -> dict[str, Callable[[], Any]]:
    """Return a function that makes a valid call, for each rpc that reaches the engine."""
    stub, operator = door.stub, door.operator
    return {
        "StartWorkflow": lambda: stub.StartWorkflow(ws.StartWorkflowRequest(workflow_type="nothing")),
        "WatchWorkflow": lambda: stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id="w")),
        "GetWorkflow": lambda: stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id="w")),
        "ListWorkflows": lambda: stub.ListWorkflows(ws.ListWorkflowsRequest()),
        "ListEvents": lambda: stub.ListEvents(ws.ListEventsRequest(workflow_id="w")),
        "SignalWorkflow": lambda: stub.SignalWorkflow(
            ws.SignalWorkflowRequest(workflow_id="w", name="go", data=text("1"))
        ),
        "CancelWorkflow": lambda: stub.CancelWorkflow(ws.CancelWorkflowRequest(workflow_id="w")),
        "ResumeWorkflow": lambda: operator.ResumeWorkflow(ResumeWorkflowRequest(workflow_id="w")),
        "TerminateWorkflow": lambda: operator.TerminateWorkflow(TerminateWorkflowRequest(workflow_id="w")),
        "HoldWorkflow": lambda: operator.HoldWorkflow(HoldWorkflowRequest(workflow_id="w")),
        "ReleaseWorkflow": lambda: operator.ReleaseWorkflow(ReleaseWorkflowRequest(workflow_id="w")),
        "DeleteWorkflow": lambda: operator.DeleteWorkflow(DeleteWorkflowRequest(workflow_id="w")),
    }
