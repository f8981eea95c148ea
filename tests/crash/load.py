"""Clients that live through a server's deaths: they act out stories, and keep every reply and every event.

The server is killed at moments of progress, not of time. Progress in a life is its visible output: a step's execution,
a reply, a watched event. When there is none, a long look counts as progress, so that nothing waits forever. A third of
the kills come during a recovery, after the first writes to the store's log. No kill comes before the process is up. At
each kill the load saves everything that had left the process, to compare it with what was stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mendflow import Client
from mendflow.errors import WrongState
from mendflow.v1 import payload_pb2, workflow_pb2, workflow_service_pb2
from mendflow_server.history.state import FINAL_STATES
from tests.support.evidence import Pressure
from tests.support.files import whole_lines
from tests.support.load_workflows import EFFECTS, LIVES
from tests.support.promises import Death, Reply, Watched, copy_store, open_attempts, read_effects, read_store
from tests.support.stories import Moment
from tests.support.watchers import RawWatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from mendflow.v1 import event_pb2
    from tests.support.promises import Stored
    from tests.support.servers import ServerProcess
    from tests.support.stories import Act, Story, Watch

CLIENTS: Final = 4
#: The pause between two looks at the progress, in seconds, and the number of looks without progress that count as some:
#: as 1, and each time as twice as much while the server is up, so that a life in which all wait does not last a minute.
LOOK: Final = 0.002
LONG_LOOK: Final = 100


@dataclass(frozen=True)
class Kill:
    """A SIGKILL: the progress before it, and what was in progress."""

    moment: Moment
    open_stories: int
    calls: int
    #: The life had recovered some of the attempts that the death before it interrupted, but not all.
    recovering: bool


class Load:
    """Stories that clients act out while their server is killed."""

    def __init__(self, server: ServerProcess, stories: Sequence[Story]) -> None:
        self.replies: list[Reply] = []
        self.watched: list[Watched] = []
        self.raw: list[RawWatch] = []
        self.kills: list[Kill] = []
        self.deaths: list[Death] = []
        self.pressure = Pressure()
        self._known: dict[bytes, event_pb2.Event] = {}
        self._server = server
        self._stories = stories
        self._clients: list[Client] = []
        self._now = Moment(0, 0)
        self._moved = asyncio.Condition()
        self._seen = 0  # The events that watchers saw.
        self._executed = 0  # The bytes of the effects; the next attribute counts their lines.
        self._effects = 0
        self._before = 0  # The progress of all lives before this one.
        self._looks = 0
        self._idle = 0
        self._stride = 1
        self._open: set[str] = set()
        self._calls = 0

    async def run(self, rng: Random, *, kills: int) -> None:
        """Run all stories to their ends, with this many kills in between."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                client = Client(self._server.grpc_address, timeout=60.0, retry_for=None)
                self._clients.append(await stack.enter_async_context(client))
            looking = asyncio.create_task(self._look())
            clients = asyncio.create_task(self._run_all(rng, kills))
            await asyncio.wait((looking, clients), return_when=asyncio.FIRST_COMPLETED)
            for task in (looking, clients):
                if not task.done():
                    task.cancel()
                elif task is looking:
                    clients.cancel()
            await asyncio.gather(clients, return_exceptions=True)
            if looking.done() and not looking.cancelled():
                await looking
            await clients

    def unfinished(self) -> list[str]:
        """Return the workflows that have been started and whose end no client has received."""
        return sorted(self._open)

    async def _run_all(self, rng: Random, kills: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill(rng, kills))
            for number, story in enumerate(self._stories):
                group.create_task(self._run_story(story, number))

    # The deaths.

    async def _kill(self, rng: Random, kills: int) -> None:
        share = len(self._stories) // (kills + 1)
        midst = [True] * (kills // 3) + [False] * (kills - 1 - kills // 3)
        rng.shuffle(midst)
        # On a busy machine a recovery may end before its kill. The next kill is then aimed instead.
        owed = 0
        for life, recovering in enumerate([False, *midst]):
            owed += recovering
            while len(self.lives) <= life:
                await asyncio.sleep(LOOK)
            if owed:
                await self._reach_write(rng.randint(1, 2), Moment(life, share))
            else:
                await self._reach(Moment(life, rng.randint(1, share * 12)))
            await self._die()
            owed -= owed > 0 and self.kills[-1].recovering

    async def _die(self) -> None:
        """Kill the server, save what it left, and start it again."""
        number = len(self.deaths) + 1
        self._server.kill()
        when = time.time()
        calls, open_stories, moment = self._calls, len(self._open), self._now
        replies = list(self.replies)
        watched = [replace(each, events=list(each.events)) for each in self.watched]
        effects = read_effects(self._server.directory / EFFECTS)
        copy = copy_store(self._server.store, self._server.directory / f"at-death-{number}")
        self._before = self._progress()
        self._now, self._stride = Moment(number, 0), 1
        self._server.start(wait=False)
        stored = await asyncio.to_thread(read_store, copy, self._known)
        shutil.rmtree(copy.parent)
        recovering = is_in_midst(self.deaths[-1].stored, stored) if self.deaths else False
        self.deaths.append(Death(stored, effects, replies, watched, time=when))
        self.kills.append(Kill(moment, open_stories, calls, recovering))

    @property
    def lives(self) -> list[float]:
        """The wall clock times, in seconds, at which each life's process was up."""
        return [float(line) for line in whole_lines(self._server.directory / LIVES)]

    async def _reach_write(self, writes: int, latest: Moment) -> None:
        """Wait for this many writes of this life to the store's log, but not beyond a moment of progress."""
        log = Path(f"{self._server.store}-wal")
        before = _stamp(log)
        while writes and self._now < latest:
            await asyncio.sleep(LOOK / 2)
            now = _stamp(log)
            writes -= now != before
            before = now

    async def _reach(self, moment: Moment) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._now >= moment)

    async def _look(self) -> None:
        """Measure the progress without end. Raise AssertionError when the server has died without a kill."""
        before = -1
        while True:
            process = self._server.process
            if process is not None and process.poll() is not None:
                raise AssertionError(f"the server ended without a kill, with {process.returncode}")
            self._read_effects()
            self.pressure.look()
            now = self._progress()
            if now != before:
                self._idle, self._stride = 0, 1
            self._idle += 1
            if self._idle > LONG_LOOK:
                self._looks += self._stride
                self._stride = 2 * self._stride if len(self.lives) > self._now.life else 1
                self._idle = 0
            before = self._progress()
            async with self._moved:
                self._now = Moment(self._now.life, before - self._before)
                self._moved.notify_all()
            await asyncio.sleep(LOOK)

    def _progress(self) -> int:
        return self._effects + len(self.replies) + self._seen + self._looks

    def _read_effects(self) -> None:
        path = self._server.directory / EFFECTS
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._executed)
            new = file.read()
        self._executed += len(new)
        self._effects += new.count(b"\n")

    # The stories.

    def _client(self, number: int) -> Client:
        return self._clients[number % CLIENTS]

    async def _run_story(self, story: Story, number: int) -> None:
        await self._reach(story.begins)
        self._open.add(story.workflow_id)
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
        self._open.discard(story.workflow_id)

    async def _start(self, story: Story, number: int) -> None:
        client = self._client(number)
        request = workflow_service_pb2.StartWorkflowRequest(
            workflow_id=story.workflow_id, workflow_type=story.workflow_type
        )
        if story.input is not None:
            request.input.CopyFrom(payload_pb2.Payload(json=json.dumps(story.input)))
        with self._calling():
            reply = await client.caller.call_with_retry(client.stub.StartWorkflow, request)
        self.replies.append(Reply("started", story.workflow_id, reply.workflow.uid))

    async def _await_end(self, story: Story, number: int) -> None:
        workflow = workflow_pb2.Workflow()
        while workflow.state not in FINAL_STATES:
            workflow = await self._client(number).get(story.workflow_id, wait=30.0)
        self.replies.append(Reply("result", story.workflow_id, workflow))

    async def _act(self, story: Story, act: Act, number: int) -> None:
        await self._reach(act.at)
        client = self._client(number)
        try:
            with self._calling():
                if act.signal:
                    await client.signal(
                        story.workflow_id, act.signal, act.data, request_id=act.request_id, allow_undeclared=True
                    )
                else:
                    await client.cancel(story.workflow_id, act.request_id)
        except WrongState:
            self.replies.append(Reply("refused", story.workflow_id, act.request_id))
        else:
            self.replies.append(Reply("signalled" if act.signal else "cancelled", story.workflow_id, act.request_id))

    async def _watch(self, story: Story, watch: Watch, number: int) -> None:
        await self._reach(watch.at)
        bookmark = (await self._client(number).get(story.workflow_id)).last_sequence if watch.bookmark else 0
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
            new = raw.streams[-1].frames[-1].events
            before = len(watched.events)
            watched.events += new
            self._seen += len(new)
            return before < cut <= len(watched.events)

        while not raw.ended:
            number += 1
            await raw.open_once(self._client(number).stub, leave)
        watched.ended = True

    async def _watch_by_client(self, watched: Watched, cut: int, number: int) -> None:
        cursor = watched.after_sequence
        while not watched.ended:
            # Each stream begins where the one before ended, with another client.
            number += 1
            limit = cut if not watched.events else 0
            events = self._client(number).handle(watched.workflow_id).watch(cursor, kinds=watched.kinds)
            async with contextlib.aclosing(events):
                async for event in events:
                    watched.events.append(event)
                    self._seen += 1
                    cursor = event.sequence
                    if limit and len(watched.events) >= limit:
                        break
                else:
                    watched.ended = True

    @contextlib.contextmanager
    def _calling(self) -> Any:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1


def is_in_midst(before: Stored, now: Stored) -> bool:
    """Return whether a life was killed after it began to recover and before it recovered every interrupted workflow."""
    cut = [name for name, history in before.histories.items() if open_attempts(history)]
    left = [name for name in cut if now.rows[name].generation == before.rows[name].generation]
    return len(now.lives) > len(before.lives) and bool(left)


def _stamp(path: Path) -> tuple[int, int]:
    """Return a value that changes with each write to a file."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return 0, 0
