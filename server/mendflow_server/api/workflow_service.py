"""WorkflowService: the rpcs that start, read and control workflows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from mendflow.ids import new_id
from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc
from mendflow_server.api.conversion import describe, describe_into, set_micros
from mendflow_server.api.interceptors import as_refusal
from mendflow_server.api.page_tokens import (
    events_cursor,
    events_token,
    types_cursor,
    types_token,
    workflows_cursor,
    workflows_token,
)
from mendflow_server.api.shield import Shield
from mendflow_server.api.status_codes import to_status
from mendflow_server.api.validation import (
    check_batch,
    check_cancel,
    check_get,
    check_list_events,
    check_list_types,
    check_list_workflows,
    check_signal,
    check_start,
    check_watch,
    decode_input,
    decode_signal,
    definition_of,
    signal_type_of,
)
from mendflow_server.errors import WorkflowNotFound
from mendflow_server.execution.start_command import StartCommand
from mendflow_server.store.records import Cursor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import grpc

    from mendflow.authoring.workflow import Workflow
    from mendflow.codec import ValueType
    from mendflow.v1.event_pb2 import TraceContext
    from mendflow_server.api.interfaces import WorkflowEngine
    from mendflow_server.engine.requests import StartResult
    from mendflow_server.health.monitor import HealthStatus
    from mendflow_server.settings import Settings

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["FEATURES", "WorkflowService"]

#: The optional features of this server, as GetServerInfo returns them.
FEATURES: Final = ("batch_start", "delete", "hold", "signal_dedup", "wait", "watch_kinds")

# Clients accept 4 MiB by default. One event or row can add about 1 MiB to a page of this size.
_PAGE_BYTES: Final = 1 << 20
# A batch waits for room after this many starts.
_PORTION: Final = 128
# Beyond this size the response of a batch omits long fields, so that 1,000 outcomes always fit.
_BATCH_BYTES: Final = 2 << 20


class WorkflowService(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """The rpc handlers. Each checks its request, calls the engine and describes the result.

    ``trace`` returns the trace context of a call's metadata. ``health`` returns the readiness of the server.
    """

    def __init__(
        self,
        engine: WorkflowEngine,
        settings: Settings,
        *,
        trace: Callable[[Any], TraceContext],
        health: Callable[[], HealthStatus],
        version: str,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._trace = trace
        self._health = health
        self._version = version
        self._shield = Shield()
        # Where no type declares signals, the handler does not look up the workflow's type.
        self._checks_signals = any(definition.signals for definition in engine.definitions.values())

    async def StartWorkflow(
        self, request: workflow_service_pb2.StartWorkflowRequest, context: Context
    ) -> workflow_service_pb2.StartWorkflowResponse:
        """Start a workflow, and wait for its end if the request says so."""
        command = self._start_command(request, self._trace(context.invocation_metadata()))
        result = await self._engine.start_and_wait(command)
        response = workflow_service_pb2.StartWorkflowResponse()
        response.started = result.started
        describe_into(response.workflow, result.row, final=result.final)
        return response

    async def BatchStartWorkflows(
        self, request: workflow_service_pb2.BatchStartWorkflowsRequest, context: Context
    ) -> workflow_service_pb2.BatchStartWorkflowsResponse:
        """Start many workflows. Each has its own outcome."""
        check_batch(request, self._settings)
        begun: list[asyncio.Future[StartResult] | Exception] = []
        metadata = context.invocation_metadata()
        trace = self._trace(metadata)
        try:
            for index, start in enumerate(request.requests):
                if index % _PORTION == 0:
                    await self._engine.wait_for_capacity()
                if not trace.parent_span_id:
                    trace = self._trace(metadata)  # Without a caller's trace, each workflow has its own.
                try:
                    begun.append(self._engine.start(self._start_command(start, trace)))
                except Exception as error:  # noqa: BLE001 - one refusal must not affect the others
                    begun.append(error)
            return await _batch_response(begun)
        finally:
            for future in begun:
                # When the caller has disconnected, the started workflows continue and their errors are not reported.
                if isinstance(future, asyncio.Future) and not future.cancel() and not future.cancelled():
                    future.exception()

    async def WatchWorkflow(
        self, request: workflow_service_pb2.WatchWorkflowRequest, context: Context
    ) -> AsyncIterator[workflow_service_pb2.WatchWorkflowResponse]:
        """Yield a workflow's events as they are committed."""
        del context
        checked = check_watch(request, self._settings)
        frames = self._engine.watch(
            checked.workflow_id, after_sequence=checked.after_sequence, kinds=checked.kinds, uid=checked.uid
        )
        try:
            async for frame in frames:
                yield frame
        finally:
            close = getattr(frames, "aclose", None)
            if close is not None:
                await close()

    async def GetWorkflow(
        self, request: workflow_service_pb2.GetWorkflowRequest, context: Context
    ) -> workflow_service_pb2.GetWorkflowResponse:
        """Return one workflow, and wait for its end if the request says so."""
        del context
        asked = check_get(request, self._settings)
        ending = await self._engine.get(asked.workflow_id, wait=asked.wait, uid=asked.uid)
        return workflow_service_pb2.GetWorkflowResponse(
            workflow=describe(ending.row, started=ending.started, final=ending.final)
        )

    async def ListWorkflows(
        self, request: workflow_service_pb2.ListWorkflowsRequest, context: Context
    ) -> workflow_service_pb2.ListWorkflowsResponse:
        """Return a page of workflows, newest first."""
        del context
        checked = check_list_workflows(request, self._settings)
        after = workflows_cursor(checked.condition, request.page_token)
        page = await self._engine.list_workflows(checked.condition, limit=checked.page_size, after=after)
        response = workflow_service_pb2.ListWorkflowsResponse()
        following = page.next
        size = 0
        for index, row in enumerate(page.rows):
            workflow = describe(row)
            size += workflow.ByteSize()
            if index and size > _PAGE_BYTES:
                last = page.rows[index - 1]
                following = Cursor(last.create_time, last.key)
                break
            response.workflows.append(workflow)
        if following is not None:
            response.next_page_token = workflows_token(checked.condition, following)
        return response

    async def ListEvents(
        self, request: workflow_service_pb2.ListEventsRequest, context: Context
    ) -> workflow_service_pb2.ListEventsResponse:
        """Return a page of a workflow's events, in order."""
        del context
        checked = check_list_events(request, self._settings)
        row = await self._engine.find(checked.workflow_id)
        # The uid, not the id, since an id can be used again after its workflow is deleted.
        after = events_cursor(row.uid, request.page_token)
        events = await self._engine.read_events(row.key, after, limit=checked.page_size, max_bytes=_PAGE_BYTES)
        if not events and after < row.last_sequence:
            raise WorkflowNotFound(checked.workflow_id)  # It was deleted meanwhile.
        response = workflow_service_pb2.ListEventsResponse()
        for data in events:
            response.events.add().MergeFromString(data)
        if events and response.events[-1].sequence < row.last_sequence:
            response.next_page_token = events_token(row.uid, response.events[-1].sequence)
        return response

    async def SignalWorkflow(
        self, request: workflow_service_pb2.SignalWorkflowRequest, context: Context
    ) -> workflow_service_pb2.SignalWorkflowResponse:
        """Send a signal to a workflow."""
        check_signal(request, self._settings)
        duplicate = await self._shield.run(self._signal(request, context.peer()))
        return workflow_service_pb2.SignalWorkflowResponse(duplicate=duplicate)

    async def CancelWorkflow(
        self, request: workflow_service_pb2.CancelWorkflowRequest, context: Context
    ) -> workflow_service_pb2.CancelWorkflowResponse:
        """Request the cancellation of a workflow."""
        checked = check_cancel(request, self._settings)
        row = await self._shield.run(
            self._engine.cancel(
                checked.workflow_id, reason=checked.reason, request_id=request.request_id, actor=context.peer()
            )
        )
        return workflow_service_pb2.CancelWorkflowResponse(workflow=describe(row))

    async def ListWorkflowTypes(
        self, request: workflow_service_pb2.ListWorkflowTypesRequest, context: Context
    ) -> workflow_service_pb2.ListWorkflowTypesResponse:
        """Return a page of the workflow types that this server serves, by name."""
        del context
        page_size = check_list_types(request, self._settings)
        after = types_cursor(request.page_token)
        names = sorted(name for name in self._engine.definitions if name > after)
        response = workflow_service_pb2.ListWorkflowTypesResponse()
        size = 0
        for index, name in enumerate(names):
            described = _describe_type(self._engine.definitions[name])
            size += described.ByteSize()
            if index == page_size or (index and size > _PAGE_BYTES):
                response.next_page_token = types_token(names[index - 1])
                break
            response.workflow_types.append(described)
        return response

    async def GetServerInfo(
        self, request: workflow_service_pb2.GetServerInfoRequest, context: Context
    ) -> workflow_service_pb2.GetServerInfoResponse:
        """Return the version, the id, the features, the limits and the health of this server."""
        del request, context
        settings, health = self._settings, self._health()
        response = workflow_service_pb2.GetServerInfoResponse(
            version=self._version,
            replica_id=self._engine.replica_id,
            features=FEATURES,
            health_reasons=health.reasons,
            health_warnings=health.warnings,
        )
        set_micros(response.start_time, round(self._engine.start_time * 1_000_000))
        published = response.limits
        published.payload_bytes = settings.payload_limit
        published.request_bytes = settings.request_limit
        published.history_events = settings.history_limit
        published.workflow_id_length = settings.workflow_id_length
        published.batch_size = settings.batch_limit
        published.page_size = settings.page_limit
        published.untaken_signals = settings.untaken_signals_limit
        published.watches = settings.watch_limit
        published.workflows_in_memory = settings.workflows_in_memory_limit
        published.attempts = settings.attempt_slots
        published.threads = settings.thread_slots
        published.wait.FromNanoseconds(round(settings.wait_limit * 1_000_000_000))
        published.labels = settings.labels_limit
        return response

    async def _signal(self, request: workflow_service_pb2.SignalWorkflowRequest, actor: str) -> bool:
        """Send a signal that its workflow's type allows; return whether its request id was used before."""
        data = request.data if request.HasField("data") else None
        declared: ValueType[Any] | None = None
        if self._checks_signals:
            row = await self._engine.find(request.workflow_id)
            definition = self._engine.definitions.get(row.workflow_type)
            if definition is not None:
                declared = signal_type_of(definition, request.name, allow_undeclared=request.allow_undeclared)
        decode_signal(declared, data)
        return await self._engine.signal(
            request.workflow_id, name=request.name, data=data, request_id=request.request_id, actor=actor
        )

    def _start_command(self, request: workflow_service_pb2.StartWorkflowRequest, trace: TraceContext) -> StartCommand:
        """Return the command of a request. Raise a refusal when the request is not valid."""
        checked = check_start(request, self._settings)
        definition = definition_of(request.workflow_type, self._engine.definitions)
        payload = request.input if request.HasField("input") else None
        return StartCommand(
            workflow_id=checked.workflow_id or new_id(),
            definition=definition,
            input=payload,
            argument=decode_input(definition, payload),
            labels=checked.labels,
            trace=trace,
            wait=checked.wait or 0.0,
        )


async def _batch_response(
    begun: Sequence[asyncio.Future[StartResult] | Exception],
) -> workflow_service_pb2.BatchStartWorkflowsResponse:
    response = workflow_service_pb2.BatchStartWorkflowsResponse()
    size = 0
    for start in begun:
        outcome = response.outcomes.add()
        try:
            result = start if isinstance(start, Exception) else await start
        except Exception as error:  # noqa: BLE001 - each start has its own outcome
            result = error
        if isinstance(result, Exception):
            outcome.error.CopyFrom(to_status(as_refusal(result, "BatchStartWorkflows")))
        else:
            outcome.response.started = result.started
            describe_into(outcome.response.workflow, result.row)
        size += outcome.ByteSize()
        if size > _BATCH_BYTES:
            _shorten(outcome)
    return response


def _shorten(outcome: workflow_service_pb2.StartOutcome) -> None:
    """Remove the fields that can be long, so that clients accept the response."""
    if outcome.WhichOneof("outcome") == "error":
        del outcome.error.details[1:]
    else:
        outcome.response.workflow.ClearField("labels")
        outcome.response.workflow.ClearField("explanation")


def _describe_type(definition: Workflow[Any, Any]) -> workflow_service_pb2.WorkflowType:
    described = workflow_service_pb2.WorkflowType(name=definition.name, description=definition.description)
    if definition.input_type is not None:
        described.input.CopyFrom(definition.input_type.schema())
    described.output.CopyFrom(definition.output_type.schema())
    for name, value_type in definition.signals.items():
        described.signals[name].CopyFrom(value_type.schema())
    messages = definition.messages
    if messages is not None:
        if messages.input is not None:
            described.input.exported_message_name = messages.input.name
        if messages.output is not None:
            described.output.exported_message_name = messages.output.name
        for name, form in messages.signals.items():
            described.signals[name].exported_message_name = form.name
    return described
