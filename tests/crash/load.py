"""Clients that live through a server's deaths: they act out stories, and keep every reply and every event.

The server is killed at moments of progress (`Progress`), not of time. A third of the kills come
during a recovery, after the first writes to the store's log. No kill comes before the process is up. At each kill the
load saves everything that had left the process, to compare it with what was stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mendflow import Client
from tests.crash.acting import LOOK, Cast, Lines, Progress
from tests.support.evidence import Pressure
from tests.support.files import whole_lines
from tests.support.load_workflows import EFFECTS, LIVES
from tests.support.promises import Death, copy_store, open_attempts, read_effects, read_store
from tests.support.stories import Moment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from mendflow.v1 import event_pb2
    from tests.support.promises import Stored
    from tests.support.servers import ServerProcess
    from tests.support.stories import Story

CLIENTS: Final = 4


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
        self.kills: list[Kill] = []
        self.deaths: list[Death] = []
        self.pressure = Pressure()
        self._known: dict[bytes, event_pb2.Event] = {}
        self._server = server
        self._stories = stories
        self._effects = Lines(server.directory / EFFECTS)
        self._progress = Progress(
            lambda: self._effects.count + self.cast.progress, lambda: len(self.lives) > self._progress.now.life
        )
        self.cast = Cast(stories, self._progress.reach)

    async def run(self, rng: Random, *, kills: int) -> None:
        """Run all stories to their ends, with this many kills in between."""
        async with contextlib.AsyncExitStack() as stack:
            self.cast.clients = [
                await stack.enter_async_context(Client(self._server.grpc_address, timeout=60.0, retry_for=None))
                for _ in range(CLIENTS)
            ]
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
        return sorted(self.cast.open)

    async def _run_all(self, rng: Random, kills: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill(rng, kills))
            group.create_task(self.cast.act_all())

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
                await self._progress.reach(Moment(life, rng.randint(1, share * 12)))
            await self._die()
            owed -= owed > 0 and self.kills[-1].recovering

    async def _die(self) -> None:
        """Kill the server, save what it left, and start it again."""
        number = len(self.deaths) + 1
        self._server.kill()
        when = time.time()
        calls, open_stories, moment = self.cast.calls, len(self.cast.open), self._progress.now
        replies, watched = self.cast.seen()
        effects = read_effects(self._server.directory / EFFECTS)
        copy = copy_store(self._server.store, self._server.directory / f"at-death-{number}")
        self._progress.begin_life()
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
        while writes and self._progress.now < latest:
            await asyncio.sleep(LOOK / 2)
            now = _stamp(log)
            writes -= now != before
            before = now

    async def _look(self) -> None:
        """Measure the progress without end. Raise AssertionError when the server has died without a kill."""
        while True:
            process = self._server.process
            if process is not None and process.poll() is not None:
                raise AssertionError(f"the server ended without a kill, with {process.returncode}")
            self._effects.read()
            self.pressure.look()
            await self._progress.look()
            await asyncio.sleep(LOOK)


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
