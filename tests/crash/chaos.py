"""Replicas of one store, while they and their database are disturbed: clients act out stories with all of them.

A seed draws the plan: rounds of disturbances, each with the moment of progress at which it begins, the replica that it
hits, and how long it lasts. Each replica reaches the database through a proxy of its own. At each disturbance the chaos
saves what the clients and the steps had seen, and then what is stored, so that the checker can compare them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import signal
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from mendflow import Client
from tests.crash.acting import LOOK, Cast, Lines, Progress
from tests.support.load_workflows import EFFECTS
from tests.support.promises import Death, read_effects, read_store
from tests.support.proxy import Proxy
from tests.support.servers import ServerProcess
from tests.support.stories import Moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from random import Random

    from mendflow.v1 import event_pb2
    from tests.support.postgres import Postgres
    from tests.support.promises import Effect, Reply, Stored, Watched
    from tests.support.stories import Story

REPLICAS: Final = 3
#: The lease of the replicas in seconds. Half of the stops, stalls and restarts last longer.
LEASE: Final = 2.0
ENVIRONMENT: Final = {
    "MENDFLOW_LEASE": str(LEASE),
    "MENDFLOW_PROBE_INTERVAL": "0.5",
    "MENDFLOW_GOOD_PROBES": "1",
    "MENDFLOW_DRAIN_TIMEOUT": "3",
    "MENDFLOW_WATCH_HEARTBEAT": "1",
    # Few slots, so that workflows wait for one.
    "MENDFLOW_ATTEMPT_SLOTS": "6",
    "MENDFLOW_THREAD_SLOTS": "2",
}
#: The deadline of a client's call, the wait for an end in one call, and the silence of a stream, in seconds.
TIMEOUT: Final = 4.0
WAIT: Final = 2.0
SILENCE: Final = 4.0
#: The most seconds that a draining replica may take.
ENDS: Final = 30.0
#: The log events that report an internal error.
INTERNAL: Final = frozenset(
    {"engine_fault", "commit_callback_failed", "change_rejected_by_store", "part_failed", "history_not_understood"}
)


class Kind(enum.StrEnum):
    """What disturbs a replica, its way to the database, or the database."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP"
    DRAIN = "SIGTERM"
    CUT = "cut connections"
    DELAY = "slow connections"
    STALL = "silent connections"
    RESTART = "fast restart of the database"
    CRASH = "immediate restart of the database"


#: What hits the database and so all replicas.
EVERYWHERE: Final = frozenset({Kind.RESTART, Kind.CRASH})


#: What moves workflows to other replicas, and so is drawn more often.
HARSH: Final = (Kind.KILL, Kind.STOP, Kind.STALL)


@dataclass(frozen=True)
class Disturbance:
    """One disturbance: its kind, the replica that it hits, and how many seconds it lasts."""

    kind: Kind
    replica: int
    seconds: float


@dataclass(frozen=True)
class Round:
    """Disturbances that begin at the same moment, each of another replica."""

    at: Moment
    disturbances: tuple[Disturbance, ...]


def draw_plan(rng: Random, *, rounds: int, share: int) -> list[Round]:
    """Draw a plan in which each kind occurs if there are enough rounds. ``share`` is the number of stories a round."""
    kinds = [*Kind] + [rng.choice([*Kind, *HARSH]) for _ in range(rounds - len(Kind))]
    rng.shuffle(kinds)
    plan = []
    for life, kind in enumerate(kinds[:rounds]):
        first = rng.randrange(REPLICAS)
        disturbances = [_draw(rng, kind, first)]
        if rng.random() < 0.4:
            second = (first + rng.randint(1, REPLICAS - 1)) % REPLICAS
            disturbances.append(_draw(rng, rng.choice([each for each in Kind if each not in EVERYWHERE]), second))
        plan.append(Round(Moment(life, rng.randint(1, share * 8)), tuple(disturbances)))
    return plan


def _draw(rng: Random, kind: Kind, replica: int) -> Disturbance:
    if kind in {Kind.STOP, Kind.STALL, *EVERYWHERE}:
        seconds = rng.choice((rng.uniform(0.1, LEASE / 2), rng.uniform(LEASE * 1.5, LEASE * 2)))
    else:
        seconds = rng.uniform(0.0, 1.5)
    return Disturbance(kind, replica, round(seconds, 2))


@dataclass
class Chaos:
    """Replicas of one store, their clients, and what disturbs them."""

    directory: Path
    postgres: Postgres
    stories: Sequence[Story]
    faults: tuple[str, ...] = ()
    deaths: list[Death] = field(default_factory=list)
    #: The disturbances that are over, and how many stories were open at each.
    done: list[tuple[Disturbance, int]] = field(default_factory=list)
    #: The exit codes of drains.
    drained: list[int] = field(default_factory=list)
    #: The replicas that found no database when they started, and what others logged that ended without a signal.
    refused: list[int] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    servers: list[ServerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._proxies: list[Proxy] = []
        self._known: dict[bytes, event_pb2.Event] = {}
        self._busy: set[int] = set()
        self._reading = asyncio.Lock()
        self._effects = [Lines(self._home(number) / EFFECTS) for number in range(REPLICAS)]
        self._progress = Progress(
            lambda: sum(lines.count for lines in self._effects) + self.cast.progress, lambda: True
        )
        self.cast = Cast(self.stories, self._progress.reach, wait=WAIT, silence=SILENCE, faulty=bool(self.faults))

    @property
    def effects(self) -> list[Effect]:
        """The executions of all replicas."""
        return [effect for number in range(REPLICAS) for effect in read_effects(self._home(number) / EFFECTS)]

    @property
    def internal_errors(self) -> list[str]:
        """The lines of the replicas' logs that report an internal error."""
        return [
            f"replica {number}: {line}"
            for number, server in enumerate(self.servers)
            for line in server.log
            if line["event"] in INTERNAL
        ]

    def logged(self, event: str) -> int:
        """Return how often the replicas logged an event."""
        return sum(line["event"] == event for server in self.servers for line in server.log)

    async def run(self, plan: Sequence[Round], *, limit: float) -> bool:
        """Run all stories to their ends through all rounds; return False if that takes longer than the limit.

        At the end all replicas are killed.
        """
        async with self._serving():
            clients = asyncio.create_task(self._run_all(plan))
            looking = asyncio.create_task(self._look())
            try:
                await asyncio.wait((clients, looking), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                in_time = clients.done() or looking.done()
            finally:
                for task in (clients, looking):
                    task.cancel()
                await asyncio.wait((clients, looking))
            for task in (clients, looking):
                if not task.cancelled():
                    task.result()
        return in_time

    async def stored(self) -> Stored:
        """Return what is stored now."""
        return await asyncio.to_thread(self._read)

    def _read(self) -> Stored:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.db"
            self.postgres.dump(self.directory, copy)
            return read_store(copy, self._known)

    def _home(self, number: int) -> Path:
        return self.directory / f"replica{number}"

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(REPLICAS):
                self._home(number).mkdir()
                proxy = await stack.enter_async_context(Proxy(self.postgres.port))
                url = self.postgres.url_for(self.directory, port=proxy.port)
                self._proxies.append(proxy)
                self.servers.append(
                    ServerProcess(
                        self._home(number),
                        modules=("tests.support.load_workflows",),
                        environment=ENVIRONMENT,
                        faults=self.faults,
                        url=url,
                    )
                )
            try:
                await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers))
                self.cast.clients = [
                    await stack.enter_async_context(Client(server.grpc_address, timeout=TIMEOUT, retry_for=0.0))
                    for server in (*self.servers, *self.servers)
                ]
                yield
            finally:
                for server in self.servers:
                    await asyncio.to_thread(server.kill)

    async def _run_all(self, plan: Sequence[Round]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cast.act_all())
            group.create_task(self._disturb(plan))

    async def _look(self) -> None:
        """Measure the progress without end, and restart each process that ends without a signal."""
        while True:
            for number, server in enumerate(self.servers):
                process = server.process
                if number not in self._busy and process is not None and process.poll() is not None:
                    text = (server.directory / "server.log").read_text(encoding="utf-8", errors="replace")
                    if text.splitlines()[-1].startswith("error: store "):
                        self.refused.append(number)
                    else:
                        self.ended.append(f"replica {number} ended with {process.returncode}:\n{text[-2000:]}")
                    server.start(wait=False)
                self._effects[number].read()
            await self._progress.look()
            await asyncio.sleep(LOOK)

    # The disturbances.

    async def _disturb(self, plan: Sequence[Round]) -> None:
        for each in plan:
            await self._progress.reach(each.at)
            await asyncio.gather(*(self._apply(disturbance) for disturbance in each.disturbances))
            self._progress.begin_life()

    async def _apply(self, disturbance: Disturbance) -> None:
        number, seconds = disturbance.replica, disturbance.seconds
        server, proxy = self.servers[number], self._proxies[number]
        assert server.process is not None
        self._busy.add(number)
        was_open = len(self.cast.open)
        match disturbance.kind:
            case Kind.KILL:
                server.kill()
                await self._save()
                await asyncio.sleep(seconds)
                server.start(wait=False)
            case Kind.STOP:
                server.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                server.process.send_signal(signal.SIGCONT)
                await self._save()
            case Kind.DRAIN:
                self.drained.append(await asyncio.to_thread(server.terminate, ENDS))
                await self._save()
                await asyncio.sleep(seconds)
                server.start(wait=False)
            case Kind.CUT:
                for _ in range(3):
                    proxy.cut()
                    await asyncio.sleep(seconds / 3)
                await self._save()
            case Kind.DELAY:
                proxy.delay = 0.1
                await asyncio.sleep(2 * seconds)
                proxy.delay = 0.0
            case Kind.STALL:
                proxy.stall()
                await asyncio.sleep(seconds)
                proxy.flow()
                await self._save()
            case Kind.RESTART | Kind.CRASH:
                await asyncio.to_thread(self.postgres.stop, "fast" if disturbance.kind is Kind.RESTART else "immediate")
                seen = self._seen()
                await asyncio.sleep(seconds)
                await asyncio.to_thread(self.postgres.start)
                await self._save(seen)
        self._busy.discard(number)
        self.done.append((disturbance, was_open))

    def _seen(self) -> tuple[list[Effect], list[Reply], list[Watched]]:
        return (self.effects, *self.cast.seen())

    async def _save(self, seen: tuple[list[Effect], list[Reply], list[Watched]] | None = None) -> None:
        """Save what was seen until now, and then what is stored, as soon as the database can be read."""
        seen = seen or self._seen()
        async with self._reading:
            self.deaths.append(Death(await self._stored_soon(), *seen))

    async def _stored_soon(self) -> Stored:
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return await self.stored()
            await asyncio.sleep(0.1)
