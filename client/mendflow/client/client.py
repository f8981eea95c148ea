"""The asyncio client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow import errors
from mendflow.authoring.workflow import Workflow
from mendflow.client.error_mapping import error_of_status
from mendflow.client.handle import MARGIN, WAIT, WorkflowHandle, within
from mendflow.client.rpc import Caller
from mendflow.codec import ValueType
from mendflow.ids import new_id
from mendflow.v1 import (
    operator_service_pb2,
    operator_service_pb2_grpc,
    payload_pb2,
    workflow_pb2,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from google.protobuf.message import Message


__all__ = ["Client"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")

#: A batch of starts is split so that each request stays below the server's limits.
BATCH_SIZE: Final = 1_000
BATCH_BYTES: Final = 3 << 20


class _Nothing:
    """Stands for: no input given."""


#: Spelled here, for inside the class `list` is a verb.
Types = list[workflow_service_pb2.WorkflowType]

NOTHING: Final = _Nothing()


class Client:
    """A connection to a Mendflow server; use it as an async context manager.

    ``timeout`` is one call's deadline in seconds. ``retry_for`` is how long
    calls, results and watches go on asking a server that is away; None: for
    ever. Errors are those of `mendflow.errors`.
    """

    def __init__(
        self, target: str = "127.0.0.1:50051", *, timeout: float = 10.0, retry_for: float | None = 60.0
    ) -> None:
        self.target = target
        self.caller = Caller(target, timeout=timeout, retry_for=retry_for)
        self.stub: workflow_service_pb2_grpc.WorkflowServiceAsyncStub = workflow_service_pb2_grpc.WorkflowServiceStub(
            self.caller.channel
        )
        self._operator: operator_service_pb2_grpc.OperatorServiceAsyncStub = (
            operator_service_pb2_grpc.OperatorServiceStub(self.caller.channel)
        )

    async def __aenter__(self) -> Self:
        """Answer the client; it connects on its first call."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end."""
        await self.caller.close()

    # Starting.

    @overload
    async def run(
        self,
        workflow: Workflow[I, R],
        input: I = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
        timeout: float | None = ...,
    ) -> R: ...
    @overload
    async def run(
        self,
        workflow: str,
        input: Any = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
        timeout: float | None = ...,
    ) -> Any: ...
    async def run(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = NOTHING,
        *,
        id: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Start a workflow and answer its result, in one call if it does not take long.

        Raises as `start` and `WorkflowHandle.result` do.
        """
        request = self._request(workflow, input, id, labels)
        request.wait.CopyFrom(_duration(WAIT))
        handle: WorkflowHandle[Any] = WorkflowHandle(self, request.workflow_id, _output_type(workflow), started=True)

        async def start_and_wait() -> Any:
            reply = await self.caller.call_and_wait(self.stub.StartWorkflow, request, timeout=WAIT + MARGIN)
            return await handle._result(reply.workflow)  # noqa: SLF001 - the same package's

        return await within(timeout, request.workflow_id, start_and_wait())

    @overload
    async def start(
        self,
        workflow: Workflow[I, R],
        input: I = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self, workflow: str, input: Any = ..., *, id: str | None = ..., labels: Mapping[str, str] | None = ...
    ) -> WorkflowHandle[Any]: ...
    async def start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = NOTHING,
        *,
        id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> WorkflowHandle[Any]:
        """Start a workflow, by its decorated function or its type's name; answer once it is on disk.

        The same ``id`` with the same type and input answers the workflow there is.
        Without one a new id is made, under which a lost reply is asked for again.

        Raises `InvalidRequest`, `AlreadyStarted`, `LimitExceeded`, `ServerUnavailable`.
        """
        request = self._request(workflow, input, id, labels)
        reply = await self.caller.call_with_retry(self.stub.StartWorkflow, request)
        return WorkflowHandle(self, request.workflow_id, _output_type(workflow), started=reply.started)

    async def start_many(
        self,
        workflow: Workflow[I, R] | str,
        inputs: Iterable[I],
        *,
        ids: Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[WorkflowHandle[R] | errors.RequestError]:
        """Start many workflows of one type; answer a handle, or the error that refused it, for each input.

        A batch that could not be sent is an error for each of its inputs, so that
        what was started is never forgotten. Raises ValueError when ``ids`` are not
        as many as the inputs.
        """
        values = list(inputs)
        names: Sequence[str | None] = [None] * len(values) if ids is None else list(ids)
        outcomes: list[WorkflowHandle[R] | errors.RequestError] = []
        batch = workflow_service_pb2.BatchStartWorkflowsRequest()
        size = 0
        for value, name in zip(values, names, strict=True):
            request = self._request(workflow, value, name, labels)
            bytes_ = request.ByteSize() + 8
            if batch.requests and (len(batch.requests) >= BATCH_SIZE or size + bytes_ > BATCH_BYTES):
                outcomes += await self._start_batch(workflow, batch)
                batch, size = workflow_service_pb2.BatchStartWorkflowsRequest(), 0
            batch.requests.append(request)
            size += bytes_
        if batch.requests:
            outcomes += await self._start_batch(workflow, batch)
        return outcomes

    async def _start_batch(
        self, workflow: Workflow[Any, Any] | str, batch: workflow_service_pb2.BatchStartWorkflowsRequest
    ) -> list[Any]:
        try:
            reply = await self.caller.call_with_retry(
                self.stub.BatchStartWorkflows, batch, timeout=self.caller.timeout + MARGIN
            )
        except errors.RequestError as error:
            return [error] * len(batch.requests)
        outcomes: list[Any] = []
        for request, outcome in zip(batch.requests, reply.outcomes, strict=True):
            if outcome.HasField("response"):
                outcomes.append(
                    WorkflowHandle(self, request.workflow_id, _output_type(workflow), started=outcome.response.started)
                )
            else:
                outcomes.append(error_of_status(outcome.error, self.target))
        return outcomes

    def _request(
        self, workflow: Workflow[Any, Any] | str, value: Any, workflow_id: str | None, labels: Mapping[str, str] | None
    ) -> workflow_service_pb2.StartWorkflowRequest:
        request = workflow_service_pb2.StartWorkflowRequest(
            workflow_id=workflow_id or new_id(),
            workflow_type=workflow if isinstance(workflow, str) else workflow.name,
        )
        request.labels.update(labels or {})
        if isinstance(value, _Nothing):
            return request
        if isinstance(workflow, Workflow) and workflow.input_type is not None:
            payload = workflow.input_type.encode(value)
        else:
            payload = encode(value)
        if payload.WhichOneof("kind"):
            request.input.CopyFrom(payload)
        return request

    # Asking.

    @overload
    def handle(self, id: str, *, result_type: Workflow[Any, R]) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, *, result_type: type[R]) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, *, result_type: Any = ...) -> WorkflowHandle[Any]: ...
    def handle(self, id: str, *, result_type: Any = Any) -> WorkflowHandle[Any]:
        """Answer a handle to a workflow by its id. Makes no call.

        ``result_type`` is what it returns, or its decorated function, which also reads a result that is a message.
        """
        if isinstance(result_type, Workflow):
            output_type: ValueType[Any] | None = result_type.output_type
        else:
            output_type = None if result_type is Any else ValueType.of(result_type)
        return WorkflowHandle(self, id, output_type, started=False)

    async def get(self, id: str, *, wait: float | None = None) -> workflow_pb2.Workflow:
        """Answer a workflow with its input and outcome; with ``wait``, once it has ended or after so many seconds."""
        request = workflow_service_pb2.GetWorkflowRequest(workflow_id=id)
        if wait is not None:
            request.wait.CopyFrom(_duration(wait))
            reply = await self.caller.call_and_wait(self.stub.GetWorkflow, request, timeout=wait + MARGIN)
        else:
            reply = await self.caller.call_with_retry(self.stub.GetWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def list(
        self,
        *,
        workflow_type: str = "",
        states: Collection[int] = (),
        labels: Mapping[str, str] | None = None,
        create_time_from: datetime | None = None,
        create_time_until: datetime | None = None,
        page_size: int = 100,
    ) -> AsyncGenerator[workflow_pb2.Workflow, None]:
        """Yield workflows, newest first, for which all conditions hold."""
        request = workflow_service_pb2.ListWorkflowsRequest(workflow_type=workflow_type, page_size=page_size)
        request.states.extend(states)  # type: ignore[arg-type] # an enum's numbers
        request.labels.update(labels or {})
        for moment, field in ((create_time_from, "create_time_from"), (create_time_until, "create_time_until")):
            if moment is not None:
                timestamp = Timestamp()
                timestamp.FromDatetime(moment)
                getattr(request, field).CopyFrom(timestamp)
        while True:
            page = await self.caller.call_with_retry(self.stub.ListWorkflows, request)
            for workflow in page.workflows:
                yield workflow
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def types(self) -> Types:
        """Answer the workflow types that the server serves, by name."""
        found: Types = []
        request = workflow_service_pb2.ListWorkflowTypesRequest()
        while True:
            page = await self.caller.call_with_retry(self.stub.ListWorkflowTypes, request)
            found += page.workflow_types
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def server_info(self) -> workflow_service_pb2.GetServerInfoResponse:
        """Answer the server's version, limits and features."""
        info: workflow_service_pb2.GetServerInfoResponse = await self.caller.call_with_retry(
            self.stub.GetServerInfo, workflow_service_pb2.GetServerInfoRequest()
        )
        return info

    async def health(self, service: str = "") -> str:
        """Answer "SERVING" or "NOT_SERVING" for a service of grpc.health.v1; "liveness" asks for the process."""
        stub: Any = health_pb2_grpc.HealthStub(self.caller.channel)
        reply = await self.caller.call(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    # Telling.

    async def signal(self, id: str, name: str, data: Any = None, *, request_id: str | None = None) -> bool:
        """Send a signal; answer whether it was new. Twice the same ``request_id`` is one signal.

        Raises `WorkflowNotFound`, `WrongState`, `InvalidRequest`, `LimitExceeded`.
        """
        request = workflow_service_pb2.SignalWorkflowRequest(
            workflow_id=id, name=name, request_id=request_id or new_id()
        )
        payload = encode(data)
        if payload.WhichOneof("kind"):
            request.data.CopyFrom(payload)
        reply = await self.caller.call_with_retry(self.stub.SignalWorkflow, request)
        return not reply.duplicate

    async def cancel(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """Ask a workflow to end, with clean-up. Raises `WorkflowNotFound`, `WrongState`."""
        request = workflow_service_pb2.CancelWorkflowRequest(workflow_id=id, reason=reason, request_id=new_id())
        reply = await self.caller.call_with_retry(self.stub.CancelWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def resume(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """Let a PAUSED or QUARANTINED workflow go on. Raises `WorkflowNotFound`, `WrongState`."""
        request = operator_service_pb2.ResumeWorkflowRequest(workflow_id=id, reason=reason)
        reply = await self.caller.call(self._operator.ResumeWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def terminate(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """End a workflow at once, without clean-up. Raises `WorkflowNotFound`, `WrongState`."""
        request = operator_service_pb2.TerminateWorkflowRequest(workflow_id=id, reason=reason)
        reply = await self.caller.call_with_retry(self._operator.TerminateWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    def decode(self, output_type: ValueType[Any] | None, payload: payload_pb2.Payload | None) -> Any:
        """Answer a payload as a value of this type; without one as plain JSON, or as the message it is."""
        if output_type is not None:
            return output_type.decode(payload)
        if payload is not None and payload.WhichOneof("kind") == "message":
            return unpack(payload)
        return _JSON.decode(payload)


_JSON: Final = ValueType.of(Any)


def encode(value: Any) -> payload_pb2.Payload:
    """Answer a value as a payload, by its own type; a payload as it is."""
    if isinstance(value, payload_pb2.Payload):
        return value
    return ValueType.of(Any if _is_plain(value) else type(value)).encode(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict | tuple)


def unpack(payload: payload_pb2.Payload) -> Message | payload_pb2.Payload:
    """Answer the message in a payload; the payload itself when its type is not known here."""
    from google.protobuf import symbol_database  # noqa: PLC0415 - rarely needed

    try:
        cls = symbol_database.Default().GetSymbol(payload.message.type_url.rpartition("/")[2])
    except KeyError:
        return payload
    message: Message = cls()
    payload.message.Unpack(message)
    return message


def _output_type(workflow: Workflow[Any, Any] | str) -> ValueType[Any] | None:
    return None if isinstance(workflow, str) else workflow.output_type


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
