"""Watching: every event once, in order, from any sequence, at bounded cost.

Theory of operation. The store is the truth; the hub only makes it fast. While
a client watches a workflow, the hub has a *topic* for it: the newest committed
events in a ring of bounded size, and the highest committed sequence. A watcher
is a cursor and nothing else. It reads what follows its cursor from the ring if
it is there, otherwise from the store, and sleeps when there is nothing. A slow
reader, or one that never reads, costs its cursor and one frame. When it reads
again, the store has the events that the ring has dropped.

A watcher misses no event, because the topic exists before the row is read, and
every later commit comes through the topic. It repeats no event, because it
only reads events above its cursor.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2, workflow_service_pb2
from mendflow_server import errors
from mendflow_server.history.state import FINAL_STATES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Row

#: The most events that a topic keeps, and the most bytes.
RING_EVENTS = 256
RING_BYTES = 256 * 1024
#: The most events in a frame, and about the most bytes: a stalled watcher costs three times that, and there may be
#: a thousand.
FRAME_EVENTS = 200
FRAME_BYTES = 64 * 1024


class Topic:
    """A workflow that is watched."""

    __slots__ = ("deleted", "ended", "last_sequence", "ring", "ring_bytes", "waiting", "watchers")

    def __init__(self) -> None:
        self.watchers = 0
        self.ring: collections.deque[tuple[event_pb2.Event, int]] = collections.deque()
        self.ring_bytes = 0
        self.last_sequence = 0
        self.ended = False
        #: The workflow is no longer in the store.
        self.deleted = False
        self.waiting: set[asyncio.Future[None]] = set()

    def add(self, events: Sequence[event_pb2.Event]) -> None:
        """Add committed events."""
        if events and self.ring and events[0].sequence != self.ring[-1][0].sequence + 1:
            # Another replica drove the workflow meanwhile. The store has what is missing.
            self.ring.clear()
            self.ring_bytes = 0
        for event in events:
            size = event.ByteSize()
            self.ring.append((event, size))
            self.ring_bytes += size
        while len(self.ring) > RING_EVENTS or (self.ring_bytes > RING_BYTES and len(self.ring) > 1):
            self.ring_bytes -= self.ring.popleft()[1]
        if events:
            self.last_sequence = max(self.last_sequence, events[-1].sequence)

    def wake(self) -> None:
        """Wake every watcher."""
        waiting, self.waiting = self.waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def after(self, cursor: int) -> list[event_pb2.Event]:
        """Return up to a frame of the events after the cursor; empty when the ring does not reach back so far."""
        if not self.ring or self.ring[0][0].sequence > cursor + 1:
            return []
        first = cursor + 1 - self.ring[0][0].sequence
        found: list[event_pb2.Event] = []
        size = 0
        for event, bytes_ in itertools.islice(self.ring, first, first + FRAME_EVENTS):
            size += bytes_
            if found and size > FRAME_BYTES:
                break
            found.append(event)
        return found


class WatchHub:
    """All topics of this process."""

    def __init__(self, store: Store, settings: Settings, find: Callable[[str], Awaitable[Row]]) -> None:
        self._store = store
        self._settings = settings
        #: Returns a committed row by id, or raises `WorkflowNotFound`.
        self._find = find
        self._topics: dict[int, Topic] = {}
        self._draining = False
        self.open = 0

    def publish(self, key: int, events: Sequence[event_pb2.Event], *, ended: bool) -> None:
        """Publish committed events of a workflow; ``ended`` says that they are its last."""
        topic = self._topics.get(key)
        if topic is not None:
            topic.add(events)
            topic.ended = topic.ended or ended
            topic.wake()

    def keys(self) -> list[int]:
        """Return the keys of the workflows that are watched and have not ended."""
        return [key for key, topic in self._topics.items() if not topic.ended]

    def moved(self, key: int, last_sequence: int, *, ended: bool) -> None:
        """Notify the watchers of a workflow that another replica has committed events, which the store has."""
        topic = self._topics.get(key)
        if topic is not None and (last_sequence > topic.last_sequence or ended):
            topic.last_sequence = max(topic.last_sequence, last_sequence)
            topic.ended = topic.ended or ended
            topic.wake()

    def deleted(self, key: int) -> None:
        """Notify the watchers of a workflow that it is no longer in the store."""
        topic = self._topics.get(key)
        if topic is not None:
            topic.deleted = True
            topic.wake()

    def drain(self) -> None:
        """End every watch with a status on which its client resumes elsewhere."""
        self._draining = True
        for topic in self._topics.values():
            topic.wake()

    async def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int], uid: str = ""
    ) -> AsyncIterator[workflow_service_pb2.WatchWorkflowResponse]:
        """Yield frames until the workflow's final event has been yielded or filtered out.

        An empty ``uid`` matches any workflow. Raises `WorkflowNotFound`, also when the workflow is deleted meanwhile,
        `SequenceBeyondEnd`, `TooManyWatches` and `Draining`.
        """
        if self.open >= self._settings.watch_limit:
            raise errors.TooManyWatches(self._settings.watch_limit)
        self.open += 1
        key = 0
        try:
            key = (await self._find(workflow_id)).key
            topic = self._topics.setdefault(key, Topic())
            topic.watchers += 1
            # Read again now that the topic collects what comes after.
            row = await self._find(workflow_id)
            if row.key != key or (uid and row.uid != uid):
                raise errors.WorkflowNotFound(workflow_id)  # It was deleted, and another one has its id.
            topic.last_sequence = max(topic.last_sequence, row.last_sequence)
            topic.ended = topic.ended or row.state in FINAL_STATES
            if after_sequence > topic.last_sequence:
                # A watch may have read events whose commit the engine does not know of yet.
                stored = (await self._store.find([workflow_id])).get(workflow_id)
                topic.last_sequence = max(topic.last_sequence, 0 if stored is None else stored.last_sequence)
            if after_sequence > topic.last_sequence:
                raise errors.SequenceBeyondEnd(workflow_id, after_sequence, topic.last_sequence)
            async for frame in self._frames(workflow_id, key, topic, after_sequence, kinds):
                yield frame
        finally:
            self.open -= 1
            if key:
                self._leave(key)

    def _leave(self, key: int) -> None:
        topic = self._topics.get(key)
        if topic is not None:
            topic.watchers -= 1
            if topic.watchers <= 0:
                del self._topics[key]

    async def _frames(
        self, workflow_id: str, key: int, topic: Topic, cursor: int, kinds: frozenset[int]
    ) -> AsyncIterator[workflow_service_pb2.WatchWorkflowResponse]:
        if cursor >= topic.last_sequence and not topic.ended:
            # Nothing is new. An empty frame shows a client that reconnects that the server is there.
            yield workflow_service_pb2.WatchWorkflowResponse(last_sequence=cursor)
        while True:
            if self._draining:
                raise errors.Draining
            if cursor >= topic.last_sequence:
                if topic.ended:
                    return
                if topic.deleted:
                    raise errors.WorkflowNotFound(workflow_id)
                if not await self._news(topic):
                    yield workflow_service_pb2.WatchWorkflowResponse(last_sequence=cursor)
                continue
            events = topic.after(cursor) or await self._stored(key, cursor)
            if not events:
                await self._check_stored(workflow_id, key)
                raise errors.HistoryPurged(
                    workflow_id, topic.ring[0][0].sequence if topic.ring else topic.last_sequence
                )
            cursor = events[-1].sequence
            if kinds:
                events = [event for event in events if kind_of(event) in kinds]
            # With a filter an empty frame still moves the client's cursor.
            frame = workflow_service_pb2.WatchWorkflowResponse(events=events, last_sequence=cursor)
            del events  # Who never reads keeps the frame alone.
            yield frame

    async def _check_stored(self, workflow_id: str, key: int) -> None:
        """Raise `WorkflowNotFound` if the workflow was deleted."""
        row = (await self._store.find([workflow_id])).get(workflow_id)
        if row is None or row.key != key:
            raise errors.WorkflowNotFound(workflow_id)

    async def _stored(self, key: int, cursor: int) -> list[event_pb2.Event]:
        stored = await self._store.read_events(key, cursor, limit=FRAME_EVENTS, max_bytes=FRAME_BYTES)
        return [event_pb2.Event.FromString(data) for data in stored]

    async def _news(self, topic: Topic) -> bool:
        """Wait for new events; return False when an empty frame is due instead."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        topic.waiting.add(future)
        timer = loop.call_later(self._settings.watch_heartbeat, _expire, future)
        try:
            await future
        except TimeoutError:
            return False
        else:
            return True
        finally:
            timer.cancel()
            topic.waiting.discard(future)


def kind_of(event: event_pb2.Event) -> int:
    """Return an event's kind, which is the number of the detail's field; 0 when it is unknown."""
    return _KINDS.get(event.WhichOneof("detail") or "", 0)


_KINDS = {field.name: field.number for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields}


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
