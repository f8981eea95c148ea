"""One trial: a workflow whose server is killed at chosen boundaries, and everything that was seen from outside.

A caller starts the workflow, sends its signals or its cancel, and waits for its end, asking again for as long as the
server is away; watchers follow it through the kills. Each life of the server is a real process on the same file and
the same port. The last life is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendflow import Client
from mendflow.errors import WorkflowNotFound
from mendflow.v1 import event_pb2, payload_pb2, workflow_pb2, workflow_service_pb2
from tests import killing
from tests.killing import Point, Post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

#: The one workflow of a trial.
SUBJECT = "subject"
#: How long a trial may take, in seconds.
LIMIT = 30.0
#: What the second watcher asks for.
FILTER = (event_pb2.EVENT_KIND_ATTEMPT_SUCCEEDED, event_pb2.EVENT_KIND_TIMER_FIRED)
FINAL = frozenset(
    {
        workflow_pb2.WORKFLOW_STATE_SUCCEEDED,
        workflow_pb2.WORKFLOW_STATE_FAILED,
        workflow_pb2.WORKFLOW_STATE_CANCELLED,
        workflow_pb2.WORKFLOW_STATE_TERMINATED,
    }
)

# A process that has imported everything, has one thread and has made no gRPC object; servers are its forks.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["__main__", killing.__name__])

#: Below the ports that the system gives away: while a server is dead nobody else may get its port.
_PORTS = itertools.cycle(range(15_000 + os.getpid() % 1_000 * 12, 32_000))


def _port() -> int:
    """Answer a port that nobody has, and that nobody gets who does not ask for it by its number."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@contextlib.asynccontextmanager
async def nothing_around(_directory: Path) -> AsyncIterator[int]:
    """What a workflow needs that needs nothing."""
    yield 0


@dataclass(frozen=True)
class Case:
    """A workflow, what its caller does, and what must come of it whatever dies."""

    workflow_type: str
    #: Makes the input, as plain JSON, from the trial's directory and the port of what is around.
    input: Callable[[Path, int], Any]
    #: Says what is wrong with the end; nothing, if nothing is.
    check: Callable[[Trial], list[str]]
    signals: tuple[tuple[str, Any], ...] = ()
    cancel: bool = False
    around: Callable[[Path], AbstractAsyncContextManager[int]] = nothing_around


@dataclass(frozen=True)
class Effect:
    """A real execution of a step: a line of the journal."""

    workflow_id: str
    step_key: str
    attempt: int
    idempotency_key: str


@dataclass(frozen=True)
class Told:
    """What the caller was told: started (the uid), signalled (the request id), cancelled, result (the workflow)."""

    kind: str
    detail: Any


@dataclass
class Watched:
    """What one watcher saw, over all its connections."""

    kinds: tuple[int, ...]
    events: list[event_pb2.Event] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True)
class Death:
    """The end of a killed life: where, in the midst of what, what was on disk and what had left the process then."""

    point: Point
    what: Any
    history: list[event_pb2.Event]
    effects: list[Effect]
    told: list[Told]
    watched: list[event_pb2.Event]


class Wrong(Exception):
    """A life of the server, or a client's story, that went wrong."""


@dataclass
class Trial:
    """What happened."""

    case: Case
    directory: Path
    #: Where the server was to die, one place for each life but the last.
    fatal: tuple[Point, ...]
    deaths: list[Death] = field(default_factory=list)
    #: When each life was asked for, by the wall clock.
    starts: list[float] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    final: workflow_pb2.Workflow = field(default_factory=workflow_pb2.Workflow)
    failure: str = ""

    @property
    def store(self) -> Path:
        """The file that it left."""
        return self.directory / "mendflow.db"

    @property
    def effects(self) -> list[Effect]:
        """The steps' real executions, in their order."""
        journal = self.post().journal
        return (
            [Effect(**json.loads(line)) for line in journal.read_text("utf-8").splitlines()] if journal.exists() else []
        )

    def post(self, port: int = 0) -> Post:
        """Answer where the latest life works."""
        return Post(self.directory, port, len(self.starts))

    def reached(self, life: int) -> list[Point]:
        """Answer the boundaries that a life reached, in their order."""
        return [Point(line["kind"], line["number"], line["moment"]) for line in self._record(life)]

    def _record(self, life: int) -> list[dict[str, Any]]:
        path = Post(self.directory, 0, life).record
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def died(self, point: Point) -> None:
        """Keep what a killed life left, before the next one changes it."""
        life = len(self.starts)
        if self.reached(life)[-1] != point:
            raise Wrong(f"it was to die {point} and died {self.reached(life)[-1]}")
        copy = self.directory / f"at-death-{life}"
        copy.mkdir()
        for suffix in ("", "-wal"):
            path = Path(f"{self.store}{suffix}")
            if path.exists():
                shutil.copy(path, copy)
        self.deaths.append(
            Death(
                point=point,
                what=self._record(life)[-1]["what"],
                history=history_in(copy / self.store.name),
                effects=self.effects,
                told=list(self.told),
                watched=list(self.watched[0].events),
            )
        )


def history_in(store: Path) -> list[event_pb2.Event]:
    """Answer the subject's history in a file that no server has open; an empty one when there is none."""
    with contextlib.closing(sqlite3.connect(store)) as database:
        if not database.execute("select 1 from sqlite_master where name = 'events'").fetchone():
            return []
        query = "select bytes from workflows join events using (key) where workflow_id = ? order by sequence"
        return [event_pb2.Event.FromString(row[0]) for row in database.execute(query, (SUBJECT,))]


async def run_trial(case: Case, directory: Path, fatal: Sequence[Point] = ()) -> Trial:
    """Let the workflow run to its end, killing the server once at each of these boundaries, one in each life."""
    await asyncio.to_thread(directory.mkdir)
    trial = Trial(case, directory, tuple(fatal))
    port = _port()
    async with case.around(directory) as around:
        clients = asyncio.create_task(_follow(trial, port, case.input(directory, around)))
        try:
            async with asyncio.timeout(LIMIT):
                for point in (*fatal, None):
                    await _live(trial, port, point, clients)
                    if clients.done():
                        break
                await clients
        except TimeoutError:
            trial.failure = f"not at its end after {LIMIT:g} s"
        except Wrong as wrong:
            trial.failure = str(wrong)
        finally:
            clients.cancel()
            await asyncio.wait([clients])
    return trial


async def _live(trial: Trial, port: int, point: Point | None, clients: asyncio.Task[None]) -> None:
    """One life of the server: to the point where it dies, or until the clients have seen the end."""
    trial.starts.append(time.time())
    server = _PROCESSES.Process(target=killing.serve, args=(trial.post(port), point), daemon=True)
    server.start()
    death = asyncio.create_task(_dead(server.sentinel))
    try:
        await asyncio.wait((death, clients), return_when=asyncio.FIRST_COMPLETED)
        if clients.done():
            return
        server.join()
        if point is None or server.exitcode != -signal.SIGKILL:
            log = trial.post().log.read_text(encoding="utf-8")
            raise Wrong(f"life {len(trial.starts)} ended by itself with {server.exitcode}:\n{log[-3000:]}")
        trial.died(point)
    finally:
        death.cancel()
        await asyncio.wait([death])
        server.kill()
        server.join()
        server.close()


async def _dead(sentinel: int) -> None:
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    loop.add_reader(sentinel, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(sentinel)


async def _follow(trial: Trial, port: int, value: Any) -> None:
    """All that is seen from outside, to the end."""
    address = f"127.0.0.1:{port}"
    try:
        async with Client(address) as caller, Client(address) as watcher, asyncio.TaskGroup() as group:
            group.create_task(_call(trial, caller, value))
            group.create_task(_watch(trial, watcher, ()))
            group.create_task(_watch(trial, watcher, FILTER))
    except ExceptionGroup as group:
        raise Wrong(f"a client got {group.exceptions}") from group


async def _call(trial: Trial, client: Client, value: Any) -> None:
    """Start it, tell it what it waits for, wait for its end, and start it once more."""
    case, told = trial.case, trial.told
    request = workflow_service_pb2.StartWorkflowRequest(
        workflow_id=SUBJECT, workflow_type=case.workflow_type, input=payload_pb2.Payload(json=json.dumps(value))
    )
    reply = await client.caller.insist(client.stub.StartWorkflow, request)
    told.append(Told("started", reply.workflow.uid))
    for name, data in case.signals:
        await client.signal(SUBJECT, name, data, request_id=f"{name}-1")
        told.append(Told("signalled", f"{name}-1"))
    if case.cancel:
        await client.cancel(SUBJECT, "enough")
        told.append(Told("cancelled", None))
    while trial.final.state not in FINAL:
        trial.final = await client.get(SUBJECT, wait=LIMIT)
    told.append(Told("result", trial.final))
    reply = await client.caller.insist(client.stub.StartWorkflow, request)
    told.append(Told("started", reply.workflow.uid))


async def _watch(trial: Trial, client: Client, kinds: Sequence[int]) -> None:
    """Watch it from its first event to its last, from before it exists."""
    watched = Watched(tuple(kinds))
    trial.watched.append(watched)
    while not watched.ended:
        try:
            async for event in client.handle(SUBJECT).watch(kinds=kinds):
                watched.events.append(event)
            watched.ended = True
        except WorkflowNotFound:
            await asyncio.sleep(0.02)
