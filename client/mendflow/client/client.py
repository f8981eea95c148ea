"""The asyncio client."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow import errors
from mendflow.addresses import check_target
from mendflow.authoring.workflow import Workflow
from mendflow.client.checks import checked, checked_labels, checked_text, checked_workflow
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

#: The most starts, and about the most bytes, in one batch request. Both are below the server's limits.
BATCH_SIZE: Final = 1_000
BATCH_BYTES: Final = 3 << 20


class _Nothing:
    """The type of `NOTHING`, which means that the caller gave no input."""


#: Inside `Client`, the name `list` is a method.
Types = list[workflow_service_pb2.WorkflowType]

NOTHING: Final = _Nothing()


class Client:
    """A connection to a Mendflow server. Use it as an async context manager.

    ``timeout`` is the deadline of one call, in seconds. ``retry_for`` is how
    many seconds calls, results and watches retry an unavailable server, also one
    that does not answer within that deadline; None means no limit. The methods
    raise errors from `mendflow.errors`.

    ``target`` is HOST:PORT, [IPV6]:PORT, or one of gRPC's forms dns:///HOST:PORT,
    unix:PATH, and ipv4:IP:PORT,IP:PORT or ipv6:[IP]:PORT,[IP]:PORT for several
    replicas, on which the calls take turns. Raise ValueError if it has another
    form.
    """

    def __init__(
        self, target: str = "127.0.0.1:50051", *, timeout: float = 10.0, retry_for: float | None = 60.0
    ) -> None:
        self.target = check_target(target)
        self.caller = Caller(target, timeout=timeout, retry_for=retry_for)
        self.stub: workflow_service_pb2_grpc.WorkflowServiceAsyncStub = workflow_service_pb2_grpc.WorkflowServiceStub(
            self.caller.channel
        )
        self._operator: operator_service_pb2_grpc.OperatorServiceAsyncStub = (
            operator_service_pb2_grpc.OperatorServiceStub(self.caller.channel)
        )

    async def __aenter__(self) -> Self:
        """Return the client. It connects on its first call."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection and cancel its open calls."""
        await self.caller.close()

    # Start workflows.

    @overload
    async def run(
        self,
        workflow: Workflow[None, R],
        input: None = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
        timeout: float | None = ...,
    ) -> R: ...
    @overload
    async def run(
        self,
        workflow: Workflow[I, R],
        input: I,
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
        """Start a workflow and return its result. If it ends within 30 s, this takes one call.

        ``timeout`` is in seconds; None means no limit. Raise what `start` and `WorkflowHandle.result` raise.
        """
        request = self._request(workflow, input, id, labels)
        request.wait.CopyFrom(_duration(WAIT))
        handle: WorkflowHandle[Any] = WorkflowHandle(self, request.workflow_id, _output_type(workflow), started=True)

        async def start_and_wait() -> Any:
            reply = await self.caller.call_with_retry(self.stub.StartWorkflow, request, timeout=WAIT + MARGIN)
            return await handle._result(reply.workflow)  # noqa: SLF001 - same package

        return await within(timeout, request.workflow_id, start_and_wait())

    @overload
    async def start(
        self,
        workflow: Workflow[None, R],
        input: None = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start(
        self, workflow: Workflow[I, R], input: I, *, id: str | None = ..., labels: Mapping[str, str] | None = ...
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
        """Start a workflow and return its handle once the start is committed.

        ``workflow`` is the decorated function or the name of the type. If a
        workflow with the same ``id``, type and input exists, return its handle.
        Without an ``id`` the client makes one, so that it can retry safely when
        a reply is lost.

        Raise `InvalidRequest`, `AlreadyStarted`, `LimitExceeded` or `ServerUnavailable`.
        """
        request = self._request(workflow, input, id, labels)
        reply = await self.caller.call_with_retry(self.stub.StartWorkflow, request)
        output_type, uid = _output_type(workflow), reply.workflow.uid
        return WorkflowHandle(self, request.workflow_id, output_type, started=reply.started, uid=uid)

    async def start_many(
        self,
        workflow: Workflow[I, R] | str,
        inputs: Iterable[I],
        *,
        ids: Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[WorkflowHandle[R] | errors.RequestError]:
        """Start many workflows of one type. Return a handle, or the error that refused the start, for each input.

        If a batch cannot be sent, each of its inputs has that error, and the
        handles of other batches are still returned. Raise ValueError if the
        number of ``ids`` differs from the number of inputs, and `InvalidRequest`
        if one of them is empty.
        """
        values = list(inputs)
        names: Sequence[str | None] = [None] * len(values) if ids is None else list(ids)
        for index, name in enumerate(names):
            if name is not None:
                checked(f"ids[{index}]", name)
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
                started, uid = outcome.response.started, outcome.response.workflow.uid
                output_type = _output_type(workflow)
                outcomes.append(WorkflowHandle(self, request.workflow_id, output_type, started=started, uid=uid))
            else:
                outcomes.append(error_of_status(outcome.error, self.target))
        return outcomes

    def _request(
        self, workflow: Workflow[Any, Any] | str, value: Any, workflow_id: str | None, labels: Mapping[str, str] | None
    ) -> workflow_service_pb2.StartWorkflowRequest:
        request = workflow_service_pb2.StartWorkflowRequest(
            workflow_id=new_id() if workflow_id is None else checked("workflow_id", workflow_id),
            workflow_type=checked_workflow(workflow),
        )
        request.labels.update(checked_labels(labels))
        if isinstance(value, _Nothing):
            return request
        if isinstance(workflow, Workflow) and workflow.input_type is not None:
            payload = workflow.input_type.encode(value)
        else:
            payload = encode(value)
        if payload.WhichOneof("kind"):
            request.input.CopyFrom(payload)
        return request

    # Read workflows.

    @overload
    def handle(self, id: str, *, result_type: Workflow[Any, R]) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, *, result_type: type[R]) -> WorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, *, result_type: Any = ...) -> WorkflowHandle[Any]: ...
    def handle(self, id: str, *, result_type: Any = Any) -> WorkflowHandle[Any]:
        """Return a handle to the workflow with this id, without a call to the server. Raise `InvalidRequest`.

        ``result_type`` is the type of its result, or its decorated function, which also decodes exported messages.
        """
        if isinstance(result_type, Workflow):
            output_type: ValueType[Any] | None = result_type.output_type
        else:
            output_type = None if result_type is Any else ValueType.of(result_type)
        return WorkflowHandle(self, checked("workflow_id", id), output_type, started=False)

    async def get(self, id: str, *, wait: float | None = None) -> workflow_pb2.Workflow:
        """Return a workflow with its input and outcome.

        With ``wait``, return when it has ended, or after that many seconds.
        """
        return await self._get(id, wait=wait)

    async def _get(self, id: str, *, wait: float | None, uid: str = "") -> workflow_pb2.Workflow:
        """Return a workflow, if it has this uid. An empty ``uid`` is any."""
        request = workflow_service_pb2.GetWorkflowRequest(workflow_id=checked("workflow_id", id), uid=uid)
        if wait is not None:
            request.wait.CopyFrom(_duration(wait))
            reply = await self.caller.call_with_retry(self.stub.GetWorkflow, request, timeout=wait + MARGIN)
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
        """Yield the workflows that match all conditions, newest first."""
        request = workflow_service_pb2.ListWorkflowsRequest(
            workflow_type=checked_text("workflow_type", workflow_type), page_size=page_size
        )
        request.states.extend(states)  # type: ignore[arg-type] # an enum's numbers
        request.labels.update(checked_labels(labels))
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
        """Return the workflow types that the server serves, in order of their names."""
        found: Types = []
        request = workflow_service_pb2.ListWorkflowTypesRequest()
        while True:
            page = await self.caller.call_with_retry(self.stub.ListWorkflowTypes, request)
            found += page.workflow_types
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def server_info(self) -> workflow_service_pb2.GetServerInfoResponse:
        """Return the server's version, limits and features."""
        info: workflow_service_pb2.GetServerInfoResponse = await self.caller.call_with_retry(
            self.stub.GetServerInfo, workflow_service_pb2.GetServerInfoRequest()
        )
        return info

    async def health(self, service: str = "") -> str:
        """Return "SERVING" or "NOT_SERVING" for a service of grpc.health.v1.

        The service "" is readiness, and "liveness" is the state of the process.
        """
        stub: Any = health_pb2_grpc.HealthStub(self.caller.channel)
        reply = await self.caller.call(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    # Change workflows.

    async def signal(
        self, id: str, name: str, data: Any = None, *, request_id: str | None = None, allow_undeclared: bool = False
    ) -> bool:
        """Send a signal. Return False if the workflow already has a signal with this ``request_id``.

        Without a ``request_id`` the client makes one. If the workflow's type
        declares signals, the server refuses another name, unless
        ``allow_undeclared`` is set. Raise `WorkflowNotFound`, `WrongState`,
        `InvalidRequest` or `LimitExceeded`.
        """
        request = workflow_service_pb2.SignalWorkflowRequest(
            workflow_id=checked("workflow_id", id),
            name=checked("name", name),
            request_id=new_id() if request_id is None else checked("request_id", request_id),
            allow_undeclared=allow_undeclared,
        )
        payload = encode(data)
        if payload.WhichOneof("kind"):
            request.data.CopyFrom(payload)
        reply = await self.caller.call_with_retry(self.stub.SignalWorkflow, request)
        return not reply.duplicate

    async def cancel(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """Ask a workflow to clean up and end. Raise `WorkflowNotFound` or `WrongState`."""
        request = workflow_service_pb2.CancelWorkflowRequest(
            workflow_id=checked("workflow_id", id), reason=checked_text("reason", reason), request_id=new_id()
        )
        reply = await self.caller.call_with_retry(self.stub.CancelWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def resume(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """Resume a PAUSED or QUARANTINED workflow. Raise `WorkflowNotFound` or `WrongState`."""
        request = operator_service_pb2.ResumeWorkflowRequest(
            workflow_id=checked("workflow_id", id), reason=checked_text("reason", reason)
        )
        reply = await self.caller.call(self._operator.ResumeWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def terminate(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """End a workflow at once, without clean-up. Raise `WorkflowNotFound` or `WrongState`."""
        request = operator_service_pb2.TerminateWorkflowRequest(
            workflow_id=checked("workflow_id", id), reason=checked_text("reason", reason)
        )
        reply = await self.caller.call_with_retry(self._operator.TerminateWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def hold(self, id: str) -> workflow_pb2.Workflow:
        """Keep a workflow from being deleted, by retention or `delete`, until `release`. Raise `WorkflowNotFound`."""
        request = operator_service_pb2.HoldWorkflowRequest(workflow_id=checked("workflow_id", id))
        reply = await self.caller.call_with_retry(self._operator.HoldWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def release(self, id: str) -> workflow_pb2.Workflow:
        """Release a held workflow. If its retention is over, the server deletes it. Raise `WorkflowNotFound`."""
        request = operator_service_pb2.ReleaseWorkflowRequest(workflow_id=checked("workflow_id", id))
        reply = await self.caller.call_with_retry(self._operator.ReleaseWorkflow, request)
        workflow: workflow_pb2.Workflow = reply.workflow
        return workflow

    async def delete(self, id: str) -> bool:
        """Delete a workflow that has ended, with its history. Return False if there is none with this id.

        The id can be used again. Raise `WrongState` if the workflow has not ended or is held.
        """
        try:
            # The uid makes a retry safe: it cannot delete a later workflow of the same id.
            uid = (await self.get(id)).uid
        except errors.WorkflowNotFound:
            return False
        except errors.ServerUnavailable as error:
            if error.reason != "STORE_UNAVAILABLE":
                raise
            # Its row may be damaged, which keeps it from being read and not from being deleted. Without a uid, once.
            request = operator_service_pb2.DeleteWorkflowRequest(workflow_id=id)
            try:
                await self.caller.call(self._operator.DeleteWorkflow, request)
            except errors.WorkflowNotFound:
                return False
            return True
        request = operator_service_pb2.DeleteWorkflowRequest(workflow_id=id, uid=uid)
        with contextlib.suppress(errors.WorkflowNotFound):  # Retention, or a call whose reply was lost, deleted it.
            await self.caller.call_with_retry(self._operator.DeleteWorkflow, request)
        return True

    def decode(self, output_type: ValueType[Any] | None, payload: payload_pb2.Payload | None) -> Any:
        """Return a payload as a value of this type; without a type, as plain JSON or as its message."""
        if output_type is not None:
            return output_type.decode(payload)
        if payload is not None and payload.WhichOneof("kind") == "message":
            return unpack(payload)
        return _JSON.decode(payload)


_JSON: Final = ValueType.of(Any)


def encode(value: Any) -> payload_pb2.Payload:
    """Return a value as a payload, encoded by its own type. A payload stays as it is."""
    if isinstance(value, payload_pb2.Payload):
        return value
    return ValueType.of(Any if _is_plain(value) else type(value)).encode(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | list | dict | tuple)


def unpack(payload: payload_pb2.Payload) -> Message | payload_pb2.Payload:
    """Return the message in a payload, or the payload itself if this process does not know its type."""
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
