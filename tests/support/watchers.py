"""A watcher on the bare stub, which tests the server without the client, and the judge of what it saw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from mendflow.v1 import workflow_service_pb2
from mendflow_server.engine.watch_hub import kind_of
from tests.support.promises import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mendflow.v1 import event_pb2

#: Options for channels that survive cuts: they reconnect at once, and share no connection with one another.
CHANNEL_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
)
#: The statuses that say nothing about the workflow. gRPC itself cancels calls that arrive while a server stops.
CUT: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
#: The pause before the next call in seconds, so that a draining server does not get calls without a pause.
PAUSE: Final = 0.02


@dataclass
class Stream:
    """One call: its cursor, every frame that it received, and whether it ended with OK."""

    after_sequence: int
    frames: list[workflow_service_pb2.WatchWorkflowResponse] = field(default_factory=list)
    ended: bool = False


@dataclass
class RawWatch:
    """A watch with the stub alone. When it breaks, it continues after the newest frame's last_sequence."""

    workflow_id: str
    kinds: tuple[int, ...] = ()
    after_sequence: int = 0
    streams: list[Stream] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the server said that there is no more."""
        return any(stream.ended for stream in self.streams)

    @property
    def frames(self) -> list[workflow_service_pb2.WatchWorkflowResponse]:
        """The frames of all streams."""
        return [frame for stream in self.streams for frame in stream.frames]

    @property
    def events(self) -> list[event_pb2.Event]:
        """The events of all streams."""
        return [event for frame in self.frames for event in frame.events]

    @property
    def cursor(self) -> int:
        """The cursor of the next stream."""
        return next(
            (stream.frames[-1].last_sequence for stream in reversed(self.streams) if stream.frames), self.after_sequence
        )

    async def run(self, stub: Any, leave: Callable[[RawWatch], bool] = lambda _: False) -> None:
        """Watch to the end. When ``leave`` returns true for a frame, cancel the call and make another one."""
        while not self.ended:
            await self.open_once(stub, leave)

    async def open_once(self, stub: Any, leave: Callable[[RawWatch], bool]) -> None:
        """Watch with one call. Raise each error that is not a cut."""
        stream = Stream(self.cursor)
        self.streams.append(stream)
        request = workflow_service_pb2.WatchWorkflowRequest(
            workflow_id=self.workflow_id,
            after_sequence=stream.after_sequence,
            kinds=self.kinds,  # type: ignore[arg-type]  # an enum's numbers
        )
        call = stub.WatchWorkflow(request, wait_for_ready=True)
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                stream.frames.append(frame)
                if leave(self):
                    return
            stream.ended = await call.code() is grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            if error.code() not in CUT:
                raise
            await asyncio.sleep(PAUSE)
        finally:
            call.cancel()


def as_watched(watch: RawWatch) -> Watched:
    """Return what the watch has seen so far, for the checker."""
    return Watched(watch.workflow_id, watch.kinds, watch.after_sequence, watch.events, watch.ended)


def of_kinds(history: Sequence[event_pb2.Event], kinds: Sequence[int]) -> list[event_pb2.Event]:
    """Return the events that a filter lets through."""
    return [event for event in history if not kinds or kind_of(event) in kinds]


def unfaithful(watch: RawWatch, history: Sequence[event_pb2.Event]) -> Iterator[str]:
    """Yield where frames differ from the stored history. Each frame must cover all events between two cursors."""
    cursor = watch.after_sequence
    name = f"{watch.workflow_id}, {watch.kinds or 'all'} after {watch.after_sequence}"
    for number, stream in enumerate(watch.streams, start=1):
        if stream.after_sequence != cursor:
            yield f"{name}: stream {number} began after {stream.after_sequence}, not {cursor}"
        for frame in stream.frames:
            if frame.last_sequence < cursor:
                yield f"{name}: stream {number} went back from {cursor} to {frame.last_sequence}"
            if frame.last_sequence > len(history):
                yield f"{name}: stream {number} sent the cursor {frame.last_sequence} of {len(history)} events"
            if list(frame.events) != of_kinds(history[cursor : frame.last_sequence], watch.kinds):
                seen = [event.sequence for event in frame.events]
                yield f"{name}: stream {number} sent {seen} for the events between {cursor} and {frame.last_sequence}"
            cursor = frame.last_sequence
        if stream.ended and cursor != len(history):
            yield f"{name}: stream {number} ended after {cursor} of {len(history)} events"
    if not watch.ended:
        yield f"{name}: it did not end"
    if watch.events != of_kinds(history[watch.after_sequence :], watch.kinds):
        yield f"{name}: over all streams it saw {[event.sequence for event in watch.events]}"
