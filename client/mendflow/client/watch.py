"""A watch that survives the server: every event once, in order, across restarts and cut connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from mendflow import errors
from mendflow.client.channel import trace_metadata
from mendflow.client.error_mapping import error_of_rpc
from mendflow.client.process import refuse_forked_child
from mendflow.v1 import workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterator

    from mendflow.client.rpc import Caller
    from mendflow.v1 import event_pb2
    from mendflow.v1.workflow_service_pb2_grpc import WorkflowServiceAsyncStub

__all__ = ["SILENCE", "watch"]

#: After this long without a frame the stream is taken for dead: three of the server's heartbeats. In seconds.
SILENCE: Final = 30.0

#: Ends of a stream that say nothing about the workflow: the connection, the server or a proxy went away.
_DISCONNECTS: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_TRANSPORT: Final = ("rst_stream", "goaway", "socket", "connection", "transport", "stream removed")


async def watch(
    caller: Caller,
    stub: WorkflowServiceAsyncStub,
    workflow_id: str,
    *,
    after_sequence: int,
    kinds: Collection[int],
    on_connection: Callable[[bool, str], None] | None,
    silence: float,
    retry_for: float | None,
) -> AsyncGenerator[event_pb2.Event, None]:
    """Yield a workflow's events to its end. Closing it ends the call.

    Raises `WorkflowNotFound`, `SequenceOutOfRange`, `InvalidRequest`, `LimitExceeded`,
    `ServerUnavailable` once patience is at an end, and `ServerFault` for a gap.
    """
    cursor = after_sequence
    window = caller.retry_window(retry_for)
    connected = True
    while True:
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id, after_sequence=cursor)
        request.kinds.extend(kinds)  # type: ignore[arg-type]  # an enum's numbers
        frames = _frames(caller, stub, request, silence)
        try:
            async for frame in frames:
                if not connected and on_connection is not None:
                    on_connection(True, "")  # noqa: FBT003 - the callback's own shape
                connected = True
                window.succeeded()
                for event in _new_events(frame, cursor, dense=not kinds):
                    cursor = event.sequence
                    yield event
                cursor = max(cursor, frame.last_sequence)
        except _Disconnected as lost:
            if connected and on_connection is not None:
                on_connection(False, str(lost.error))  # noqa: FBT003 - the callback's own shape
            connected = False
            await window.wait_or_raise(lost.error)
        else:
            return
        finally:
            await frames.aclose()


class _Disconnected(Exception):
    """The stream ended, but the workflow did not."""

    def __init__(self, error: errors.RequestError) -> None:
        super().__init__(str(error))
        self.error = error


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
            raise grpc.aio.AioRpcError(  # noqa: TRY301 - handled like one that read raises
                code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
            )
    except TimeoutError:
        message = f"the server at {caller.target} has been silent for {silence:g} s"
        raise _Disconnected(errors.ServerUnavailable(message, code="UNAVAILABLE")) from None
    except grpc.aio.AioRpcError as broken:
        error = error_of_rpc(broken, caller.target)
        raise (_Disconnected(error) if _is_disconnect(broken.code(), error) else error) from None
    finally:
        call.cancel()


def _new_events(
    frame: workflow_service_pb2.WatchWorkflowResponse, cursor: int, *, dense: bool
) -> Iterator[event_pb2.Event]:
    """Yield a frame's events above the cursor; raise `ServerFault` where one is missing."""
    for event in frame.events:
        if event.sequence <= cursor:
            continue
        if dense and event.sequence != cursor + 1:
            raise errors.ServerFault(f"the watch jumped from event {cursor} to {event.sequence}")
        cursor = event.sequence
        yield event


def _is_disconnect(code: grpc.StatusCode, error: errors.RequestError) -> bool:
    if code is not grpc.StatusCode.UNAVAILABLE and error.reason:
        return False  # The server's own word, no matter how it reads.
    if code is grpc.StatusCode.INTERNAL:
        return any(word in str(error).lower() for word in _TRANSPORT)
    return code in _DISCONNECTS
