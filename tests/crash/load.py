"""Clients that live through a server's deaths: they tell their stories, and keep all that they were told and saw.

The server is killed at moments of progress, not of time. Progress in a life is what is seen to come out of it: a step's
execution, a reply, a watched event; where all stand still, a long look counts too, so that nothing waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mendflow import Client
from mendflow.errors import WrongState
from mendflow.v1 import payload_pb2, workflow_pb2, workflow_service_pb2
from mendflow_server.history import FINAL_STATES
from tests.crash.stories import Moment
from tests.load_workflows import EFFECTS
from tests.promises import Told, Watched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from tests.conftest import ServerProcess
    from tests.crash.stories import Act, Story, Watch

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


class Load:
    """Stories that are told to a server while it is killed."""

    def __init__(self, server: ServerProcess, stories: Sequence[Story]) -> None:
        self.told: list[Told] = []
        self.watched: list[Watched] = []
        self.kills: list[Kill] = []
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
            told = asyncio.create_task(self._tell_all(rng, kills))
            await asyncio.wait((looking, told), return_when=asyncio.FIRST_COMPLETED)
            for task in (looking, told):
                if not task.done():
                    task.cancel()
                elif task is looking:
                    told.cancel()
            await asyncio.gather(told, return_exceptions=True)
            if looking.done() and not looking.cancelled():
                await looking
            await told

    def unfinished(self) -> list[str]:
        """Answer the workflows that have been started, as far as is known, and whose end nobody was told."""
        return sorted(self._open)

    async def _tell_all(self, rng: Random, kills: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill(rng, kills))
            for number, story in enumerate(self._stories):
                group.create_task(self._tell(story, number))

    # The deaths.

    async def _kill(self, rng: Random, kills: int) -> None:
        share = len(self._stories) // (kills + 1)
        for life in range(kills):
            # At times with the first signs of life, in the midst of recovery.
            await self._reach(Moment(life, rng.randint(1, 3) if rng.random() < 0.3 else rng.randint(1, share * 12)))
            self._server.kill()
            self.kills.append(Kill(self._now, len(self._open), self._calls))
            self._before = self._progress()
            self._now = Moment(life + 1, 0)
            self._server.start(wait=False)

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
        return self._effects + len(self.told) + self._seen + self._looks

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

    async def _tell(self, story: Story, number: int) -> None:
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
            reply = await client.caller.insist(client.stub.StartWorkflow, request)
        self.told.append(Told("started", story.workflow_id, reply.workflow.uid))

    async def _await_end(self, story: Story, number: int) -> None:
        workflow = workflow_pb2.Workflow()
        while workflow.state not in FINAL_STATES:
            workflow = await self._client(number).get(story.workflow_id, wait=30.0)
        self.told.append(Told("result", story.workflow_id, workflow))

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
            self.told.append(Told("refused", story.workflow_id, act.request_id))
        else:
            self.told.append(Told("signalled" if act.signal else "cancelled", story.workflow_id, act.request_id))

    async def _watch(self, story: Story, watch: Watch, number: int) -> None:
        await self._reach(watch.at)
        bookmark = (await self._client(number).get(story.workflow_id)).last_sequence if watch.bookmark else 0
        watched = Watched(story.workflow_id, watch.kinds, bookmark)
        self.watched.append(watched)
        cursor = bookmark
        while not watched.ended:
            # Each time from where it broke off, by another client.
            number += 1
            cut = watch.cut if not watched.events else 0
            events = self._client(number).handle(story.workflow_id).watch(cursor, kinds=watch.kinds)
            async with contextlib.aclosing(events):
                async for event in events:
                    watched.events.append(event)
                    self._seen += 1
                    cursor = event.sequence
                    if cut and len(watched.events) >= cut:
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
