"""Clients that live through a server's deaths: they tell their stories, and keep all that they were told and saw.

The server is killed at moments of progress, not of time. Progress in a life is what is seen to come out of it: a step's
execution, a reply, a watched event; where all stand still, a long look counts too, so that nothing waits for ever. A
third of the kills come in the midst of a recovery: after the first writes to the store's log. None comes before the
process is up, and at each all that had left the process is kept, to be held against what was on disk.
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
#: How often progress is looked at, in seconds, and how many looks without any count as some.
LOOK: Final = 0.002
LONG_LOOK: Final = 100


@dataclass(frozen=True)
class Kill:
    """A SIGKILL: after how much progress, and what was under way."""

    moment: Moment
    open_stories: int
    calls: int
    #: The life had taken over some of what the one before it had cut off, and not all.
    recovering: bool


class Load:
    """Stories that are told to a server while it is killed."""

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
        self._seen = 0  # All events that watchers saw.
        self._executed = 0  # Bytes of the effects, and lines.
        self._effects = 0
        self._before = 0  # All progress of the lives before this one.
        self._looks = 0
        self._idle = 0
        self._open: set[str] = set()
        self._calls = 0

    async def run(self, rng: Random, *, kills: int) -> None:
        """Tell all stories to their ends, with so many kills between."""
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
        """Answer the workflows that have been started, as far as is known, and whose end nobody was told."""
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
        # A busy machine may let a recovery end before its kill; the next kill is aimed instead.
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
        """Kill the server, keep what it left, and start it again."""
        number = len(self.deaths) + 1
        self._server.kill()
        when = time.time()
        calls, open_stories, moment = self._calls, len(self._open), self._now
        replies = list(self.replies)
        watched = [replace(each, events=list(each.events)) for each in self.watched]
        effects = read_effects(self._server.directory / EFFECTS)
        copy = copy_store(self._server.store, self._server.directory / f"at-death-{number}")
        self._before = self._progress()
        self._now = Moment(number, 0)
        self._server.start(wait=False)
        stored = await asyncio.to_thread(read_store, copy, self._known)
        shutil.rmtree(copy.parent)
        recovering = is_in_midst(self.deaths[-1].stored, stored) if self.deaths else False
        self.deaths.append(Death(stored, effects, replies, watched, time=when))
        self.kills.append(Kill(moment, open_stories, calls, recovering))

    @property
    def lives(self) -> list[float]:
        """When each life's process was up, by the wall clock in seconds."""
        return [float(line) for line in whole_lines(self._server.directory / LIVES)]

    async def _reach_write(self, writes: int, latest: Moment) -> None:
        """Wait until this life has written so often to the store's log; at the latest until a moment of progress."""
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
        """See how far things are, for ever. Fails when the server has died by itself."""
        before = -1
        while True:
            process = self._server.process
            if process is not None and process.poll() is not None:
                raise AssertionError(f"the server ended by itself with {process.returncode}")
            self._read_effects()
            self.pressure.look()
            now = self._progress()
            self._idle = 0 if now != before else self._idle + 1
            if self._idle >= LONG_LOOK:
                self._looks += 1
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
                    await client.signal(story.workflow_id, act.signal, act.data, request_id=act.request_id)
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
            # Each time from where it broke off, by another client.
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
    """Tell whether a life had begun to recover and had not taken over all that was cut off by the death before."""
    cut = [name for name, history in before.histories.items() if open_attempts(history)]
    left = [name for name in cut if now.rows[name].generation == before.rows[name].generation]
    return len(now.lives) > len(before.lives) and bool(left)


def _stamp(path: Path) -> tuple[int, int]:
    """Answer what changes with each write to a file."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return 0, 0
