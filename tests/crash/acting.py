"""Clients that act out stories while servers stop and come back, and keep every reply and every event.

What they do next depends on progress, not on time. Progress is what is visible from outside: a step's execution, a
reply, a watched event. When there is none, a long look counts as progress, so that nothing waits forever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mendflow import errors
from mendflow.client.watch import SILENCE
from mendflow.errors import WrongState
from mendflow.v1 import payload_pb2, workflow_pb2, workflow_service_pb2
from mendflow_server.history.state import FINAL_STATES
from tests.support.promises import Reply, Watched
from tests.support.stories import Moment
from tests.support.watchers import RawWatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from mendflow import Client
    from tests.support.stories import Act, Story, Watch

T = TypeVar("T")

#: The pause between two looks at the progress, in seconds, and the number of looks without progress that count as some:
#: as 1, and each time as twice as much while a server is up, so that a life in which all wait does not last a minute.
LOOK: Final = 0.002
LONG_LOOK: Final = 100
#: The pause before a call goes to another client, in seconds.
PAUSE: Final = 0.05


class Progress:
    """The progress in the present life. ``count`` returns that of all lives, and ``is_up`` whether a server is up."""

    def __init__(self, count: Callable[[], int], is_up: Callable[[], bool]) -> None:
        self.now = Moment(0, 0)
        self._count = count
        self._is_up = is_up
        self._moved = asyncio.Condition()
        self._before = 0  # The progress of all lives before this one.
        self._last = -1
        self._looks = 0
        self._idle = 0
        self._stride = 1

    def begin_life(self) -> None:
        """Count anew: another life begins."""
        self._before = self._total()
        self.now, self._stride = Moment(self.now.life + 1, 0), 1

    async def look(self) -> None:
        """Measure the progress."""
        if self._total() != self._last:
            self._idle, self._stride = 0, 1
        self._idle += 1
        if self._idle > LONG_LOOK:
            self._looks += self._stride
            self._stride = 2 * self._stride if self._is_up() else 1
            self._idle = 0
        self._last = self._total()
        async with self._moved:
            self.now = Moment(self.now.life, self._last - self._before)
            self._moved.notify_all()

    async def reach(self, moment: Moment) -> None:
        """Wait for a moment."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.now >= moment)

    def _total(self) -> int:
        return self._count() + self._looks


class Lines:
    """Counts the lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._size = 0

    def read(self) -> None:
        """Count the new lines."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._size)
            new = file.read()
        self._size += len(new)
        self.count += new.count(b"\n")


class Cast:
    """The clients of some stories. Each call that finds its server unavailable goes to the next client.

    ``reach`` waits for a moment. ``wait`` is how long a client waits for a workflow's end in one call, and ``silence``
    how long it reads from a stream that sends nothing; None means as long as the stream lasts. ``faulty`` servers may
    lose what a watch has seen, which the checker finds out; it is an error otherwise.
    """

    def __init__(
        self,
        stories: Sequence[Story],
        reach: Callable[[Moment], Awaitable[None]],
        *,
        wait: float = 30.0,
        silence: float | None = None,
        faulty: bool = False,
    ) -> None:
        self._faulty = faulty
        self.clients: Sequence[Client] = ()
        self.replies: list[Reply] = []
        self.watched: list[Watched] = []
        self.raw: list[RawWatch] = []
        #: The workflows that have been started and whose end no client has received.
        self.open: set[str] = set()
        #: The calls that wait for a reply.
        self.calls = 0
        #: The calls that went to another client.
        self.moves = 0
        self._seen = 0  # The events that watchers saw.
        self._stories = stories
        self._reach = reach
        self._wait = wait
        self._silence = silence

    @property
    def progress(self) -> int:
        """How many replies and events the clients have."""
        return len(self.replies) + self._seen

    @property
    def ends(self) -> dict[str, workflow_pb2.Workflow]:
        """The workflows as a client saw them at their ends."""
        return {reply.workflow_id: reply.detail for reply in self.replies if reply.kind == "result"}

    def seen(self) -> tuple[list[Reply], list[Watched]]:
        """Return the replies, and a copy of what the watchers saw."""
        return list(self.replies), [replace(each, events=list(each.events)) for each in self.watched]

    async def act_all(self) -> None:
        """Act out all stories."""
        async with asyncio.TaskGroup() as group:
            for number, story in enumerate(self._stories):
                group.create_task(self._run_story(story, number))

    async def _call(self, number: int, method: Callable[[Client], Awaitable[T]]) -> T:
        """Call with this client, or with the next one that has a server."""
        while True:
            try:
                return await method(self._client(number))
            except errors.ServerUnavailable:
                number += 1
                self.moves += 1
                await asyncio.sleep(PAUSE)

    def _client(self, number: int) -> Client:
        return self.clients[number % len(self.clients)]

    async def _run_story(self, story: Story, number: int) -> None:
        await self._reach(story.begins)
        self.open.add(story.workflow_id)
        async with asyncio.TaskGroup() as group:
            for index in range(1, story.starters):
                group.create_task(self._start(story, number + index))
            await self._start(story, number)
            for index, watch in enumerate(story.watches, start=1):
                group.create_task(self._watch(story, watch, number + index))
            for index, act in enumerate(story.acts):
                for sender in range(act.senders):
                    group.create_task(self._act(story, act, number + index + sender))
            await self._await_end(story, number)
        self.open.discard(story.workflow_id)

    async def _start(self, story: Story, number: int) -> None:
        request = workflow_service_pb2.StartWorkflowRequest(
            workflow_id=story.workflow_id, workflow_type=story.workflow_type
        )
        if story.input is not None:
            request.input.CopyFrom(payload_pb2.Payload(json=json.dumps(story.input)))
        with self._calling():
            reply = await self._call(
                number, lambda client: client.caller.call_with_retry(client.stub.StartWorkflow, request)
            )
        self.replies.append(Reply("started", story.workflow_id, reply.workflow.uid))

    async def _await_end(self, story: Story, number: int) -> None:
        workflow = workflow_pb2.Workflow()
        while workflow.state not in FINAL_STATES:
            workflow = await self._call(number, lambda client: client.get(story.workflow_id, wait=self._wait))
        self.replies.append(Reply("result", story.workflow_id, workflow))

    async def _act(self, story: Story, act: Act, number: int) -> None:
        await self._reach(act.at)

        async def send(client: Client) -> None:
            if act.signal:
                await client.signal(
                    story.workflow_id, act.signal, act.data, request_id=act.request_id, allow_undeclared=True
                )
            else:
                await client.cancel(story.workflow_id, act.request_id)

        try:
            with self._calling():
                await self._call(number, send)
        except WrongState:
            self.replies.append(Reply("refused", story.workflow_id, act.request_id))
        else:
            self.replies.append(Reply("signalled" if act.signal else "cancelled", story.workflow_id, act.request_id))

    async def _watch(self, story: Story, watch: Watch, number: int) -> None:
        await self._reach(watch.at)
        bookmark = 0
        if watch.bookmark:
            bookmark = (await self._call(number, lambda client: client.get(story.workflow_id))).last_sequence
        watched = Watched(story.workflow_id, watch.kinds, bookmark)
        self.watched.append(watched)
        if watch.bare:
            await self._watch_bare(watched, watch.cut, number)
        else:
            await self._watch_by_client(watched, watch.cut, number)

    async def _watch_bare(self, watched: Watched, cut: int, number: int) -> None:
        raw = RawWatch(watched.workflow_id, watched.kinds, watched.after_sequence)
        self.raw.append(raw)

        def leave(_: RawWatch) -> bool:
            if self._silence is not None:
                limit.reschedule(asyncio.get_running_loop().time() + self._silence)
            new = raw.streams[-1].frames[-1].events
            before = len(watched.events)
            watched.events += new
            self._seen += len(new)
            return before < cut <= len(watched.events)

        while not raw.ended:
            number += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._silence) as limit:
                    await raw.open_once(self._client(number).stub, leave)
        watched.ended = True

    async def _watch_by_client(self, watched: Watched, cut: int, number: int) -> None:
        cursor = watched.after_sequence
        while not watched.ended:
            # Each stream begins where the one before ended, with another client.
            number += 1
            limit = cut if not watched.events else 0
            handle = self._client(number).handle(watched.workflow_id)
            events = handle.watch(cursor, kinds=watched.kinds, silence=self._silence or SILENCE)
            try:
                async with contextlib.aclosing(events):
                    async for event in events:
                        watched.events.append(event)
                        self._seen += 1
                        cursor = event.sequence
                        if limit and len(watched.events) >= limit:
                            break
                    else:
                        watched.ended = True
            except errors.SequenceOutOfRange:
                if not self._faulty:
                    raise
                return
            except errors.ServerUnavailable:
                self.moves += 1
                await asyncio.sleep(PAUSE)

    @contextlib.contextmanager
    def _calling(self) -> Any:
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
