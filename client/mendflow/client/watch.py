"""A watch that resumes after restarts and lost connections, and yields every event once, in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from mendflow import errors
from mendflow.client.error_mapping import error_of_rpc
from mendflow.client.process import refuse_forked_child
from mendflow.client.propagation import trace_metadata
from mendflow.v1 import event_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterator

    from mendflow.client.rpc import Caller
    from mendflow.v1.workflow_service_pb2_grpc import WorkflowServiceAsyncStub

__all__ = ["SILENCE", "watch"]

#: How long a stream may send no frame before the client reopens it, in seconds. The server sends one every 10 s.
SILENCE: Final = 30.0

#: The status codes of a lost connection, server or proxy. They say nothing about the workflow.
_DISCONNECTS: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_TRANSPORT: Final = ("rst_stream", "goaway", "socket", "connection", "transport", "stream removed")


async def watch(  # noqa: PLR0913 - one place calls it
    caller: Caller,
    stub: WorkflowServiceAsyncStub,
    workflow_id: str,
    *,
    uid: str,
    after_sequence: int,
    kinds: Collection[int],
    on_connection: Callable[[bool, str], None] | None,
    silence: float,
    retry_for: float | None,
) -> AsyncGenerator[event_pb2.Event, None]:
    """Yield a workflow's events until it ends. Closing the iterator cancels the call.

    ``uid`` is the workflow's uid. If it is empty, the event WorkflowStarted has
    it, or the server is asked for it. Raise `WorkflowNotFound`, also if the
    workflow is deleted and another one has its id, `SequenceOutOfRange`,
    `InvalidRequest` or `LimitExceeded` if the server refuses the watch,
    `ServerUnavailable` after ``retry_for`` seconds without the server, and
    `ServerFault` if an event is missing.
    """
    cursor = after_sequence
    window = caller.retry_window(retry_for)
    connected = True
    sees_start = not after_sequence and (not kinds or event_pb2.EVENT_KIND_WORKFLOW_STARTED in kinds)
    while True:
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id, after_sequence=cursor, uid=uid)
        request.kinds.extend(kinds)  # type: ignore[arg-type]  # an enum's numbers
        frames = _frames(caller, stub, request, silence)
        try:
            if not uid and not sees_start:
                uid = request.uid = await _uid_of(caller, stub, workflow_id)
            async for frame in frames:
                if not connected and on_connection is not None:
                    on_connection(True, "")  # noqa: FBT003 - the callback's signature
                connected = True
                window.succeeded()
                for event in _new_events(frame, cursor, dense=not kinds):
                    cursor = event.sequence
                    uid = uid or event.workflow_started.uid
                    yield event
                cursor = max(cursor, frame.last_sequence)
        except _Disconnected as disconnected:
            if connected and on_connection is not None:
                on_connection(False, str(disconnected.error))  # noqa: FBT003 - the callback's signature
            connected = False
            await window.wait_or_raise(disconnected.error)
        else:
            return
        finally:
            await frames.aclose()


class _Disconnected(Exception):
    """The stream ended before the workflow did."""

    def __init__(self, error: errors.RequestError) -> None:
        super().__init__(str(error))
        self.error = error


async def _uid_of(caller: Caller, stub: WorkflowServiceAsyncStub, workflow_id: str) -> str:
    """Return the workflow's uid. Raise `_Disconnected` without the server, and a `RequestError` if it refuses."""
    try:
        reply = await caller.call_available(
            stub.GetWorkflow, workflow_service_pb2.GetWorkflowRequest(workflow_id=workflow_id)
        )
    except errors.RequestError as error:
        raise (_Disconnected(error) if _is_disconnect(grpc.StatusCode[error.code], error) else error) from None
    return str(reply.workflow.uid)


async def _frames(
    caller: Caller,
    stub: WorkflowServiceAsyncStub,
    request: workflow_service_pb2.WatchWorkflowRequest,
    silence: float,
) -> AsyncGenerator[workflow_service_pb2.WatchWorkflowResponse, None]:
    """Yield the frames of one stream until the workflow ends.

    Raise `_Disconnected` when the stream breaks, and a `RequestError` when the server refuses the call.
    """
    refuse_forked_child()
    call = stub.WatchWorkflow(request, metadata=trace_metadata())
    try:
        while True:
            frame: Any = await asyncio.wait_for(call.read(), silence)
            if frame is grpc.aio.EOF:
                break
            yield frame
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(  # noqa: TRY301 - handled like an error of read
                code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )
    except TimeoutError:
        message = f"the server at {caller.target} has sent nothing for {silence:g} s"
        raise _Disconnected(errors.ServerUnavailable(message, code="UNAVAILABLE")) from None
    except grpc.aio.AioRpcError as rpc_error:
        error = error_of_rpc(rpc_error, caller.target)
        raise (_Disconnected(error) if _is_disconnect(rpc_error.code(), error) else error) from None
    finally:
        call.cancel()


def _new_events(
    frame: workflow_service_pb2.WatchWorkflowResponse, cursor: int, *, dense: bool
) -> Iterator[event_pb2.Event]:
    """Yield a frame's events after the cursor. Raise `ServerFault` if an event is missing."""
    for event in frame.events:
        if event.sequence <= cursor:
            continue
        if dense and event.sequence != cursor + 1:
            raise errors.ServerFault(f"the watch skipped from event {cursor} to {event.sequence}; report this failure")
        cursor = event.sequence
        yield event


def _is_disconnect(code: grpc.StatusCode, error: errors.RequestError) -> bool:
    if code is not grpc.StatusCode.UNAVAILABLE and error.reason:
        return False  # Only the server sends a reason, so the connection works.
    if code is grpc.StatusCode.INTERNAL:
        return any(word in str(error).lower() for word in _TRANSPORT)
    return code in _DISCONNECTS
