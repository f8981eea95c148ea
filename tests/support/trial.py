"""One trial: a workflow whose server is killed at chosen boundaries, and everything seen from outside.

A caller starts the workflow, sends its signals or its cancel, and waits for its end. It retries while the server is
away. Watchers follow the workflow through the kills. Each life of the server is a real process on the same file and
the same port. The last life is not killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc

from mendflow import Client
from mendflow.errors import SequenceOutOfRange, WorkflowNotFound
from mendflow.v1 import event_pb2, payload_pb2, workflow_pb2, workflow_service_pb2
from mendflow_server.history.state import FINAL_STATES
from tests.support import killing
from tests.support.evidence import Pressure
from tests.support.files import whole_lines
from tests.support.forking import PROCESSES
from tests.support.killing import Point, Post
from tests.support.promises import Death, Evidence, Reply, Watched, broken, copy_store, delays, read_effects, read_store
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.promises import Effect

#: The workflow of a trial.
SUBJECT = "subject"
#: How long a trial may take, in seconds.
LIMIT = 30.0
#: The event kinds of the second watcher.
FILTER = (event_pb2.EVENT_KIND_ATTEMPT_SUCCEEDED, event_pb2.EVENT_KIND_TIMER_FIRED)
#: The statuses on which a watcher retries: no workflow yet, no server, or a cursor that is not stored.
AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE})


@contextlib.asynccontextmanager
async def nothing_around(_directory: Path) -> AsyncIterator[int]:
    """Provide nothing, for a workflow that needs nothing around it."""
    yield 0


@dataclass(frozen=True)
class Case:
    """A workflow, what its caller does, and the result that it must have whichever process dies."""

    workflow_type: str
    #: Returns the input, as plain JSON, from the trial's directory and the port of what is around.
    input: Callable[[Path, int], Any]
    #: Returns what is wrong with the end.
    check: Callable[[Trial], list[str]]
    signals: tuple[tuple[str, Any], ...] = ()
    cancel: bool = False
    #: Workflows of the same type and input that the same call starts.
    beside: tuple[str, ...] = ()
    #: What an operator does after the start.
    operate: Callable[[Trial, Client], Awaitable[None]] | None = None
    around: Callable[[Path], AbstractAsyncContextManager[int]] = nothing_around


class Wrong(Exception):
    """A life of the server, or a client, failed unexpectedly."""


@dataclass
class Trial:
    """Everything that happened in a trial."""

    case: Case
    directory: Path
    #: Where the server must die, one place for each life but the last.
    fatal: tuple[Point, ...]
    fault: str = ""
    deaths: list[Death] = field(default_factory=list)
    #: How many lives have been started.
    lives: int = 0
    replies: list[Reply] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    final: workflow_pb2.Workflow = field(default_factory=workflow_pb2.Workflow)
    failure: str = ""
    #: Whether every workflow has had the time to end.
    over: bool = True
    pressure: Pressure = field(default_factory=Pressure)

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.directory / "mendflow.db"

    @property
    def effects(self) -> list[Effect]:
        """The steps' real executions, in order."""
        return read_effects(self.post().journal)

    @property
    def evidence(self) -> Evidence:
        """All evidence, for the checker."""
        deaths = [replace(death, up=self.post().up(life)) for life, death in enumerate(self.deaths, start=2)]
        return Evidence(
            read_store(self.store),
            self.effects,
            self.replies,
            self.watched,
            deaths,
            over=self.over,
            stalled=self.pressure.between,
        )

    @property
    def faults(self) -> list[str]:
        """The faults of the trial."""
        if self.failure:
            return [self.failure]
        return [str(each) for each in broken(self.evidence)] + self.case.check(self)

    @property
    def pauses(self) -> list[float]:
        """How late after each restart each debt was paid, in seconds."""
        return delays(self.evidence)

    def post(self, port: int = 0) -> Post:
        """Return the place of the latest life."""
        return Post(self.directory, port, self.lives)

    def reached(self, life: int) -> list[Point]:
        """Return the boundaries that a life reached, in order."""
        return [Point(line["kind"], line["number"], line["moment"]) for line in self._record(life)]

    def _record(self, life: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(Post(self.directory, 0, life).record)]

    def died(self, point: Point) -> None:
        """Save what a killed life left, before the next one changes it."""
        life = self.lives
        if self.reached(life)[-1] != point:
            raise Wrong(f"the server must die {point}, but died {self.reached(life)[-1]}")
        copy = copy_store(self.store, self.directory / f"at-death-{life}")
        what = self._record(life)[-1]["what"]
        at_commit = point.kind == "commit" and isinstance(what, dict)
        self.deaths.append(
            Death(
                stored=read_store(copy),
                effects=self.effects,
                replies=list(self.replies),
                watched=[replace(watched, events=list(watched.events)) for watched in self.watched],
                heads=what["heads"] if at_commit else {},
                committed=point.moment == "after",
                time=time.time(),
            )
        )


async def run_trial(
    case: Case, directory: Path, fatal: Sequence[Point] = (), *, fault: str = "", limit: float = LIMIT
) -> Trial:
    """Run the workflow to its end, and kill the server once at each of these boundaries, one in each life.

    ``fault`` names one of `tests.support.faults`, which every life of the server has.
    """
    await asyncio.to_thread(directory.mkdir)
    trial = Trial(case, directory, tuple(fatal), fault)
    port = free_port()
    async with case.around(directory) as around:
        looking = asyncio.create_task(_look(trial.pressure))
        clients = asyncio.create_task(_follow(trial, port, case.input(directory, around)))
        try:
            async with asyncio.timeout(limit):
                for point in (*fatal, None):
                    await _live(trial, port, point, clients)
                    if clients.done():
                        break
                await clients
        except TimeoutError:
            trial.failure = f"the workflow had not ended after {limit:g} s"
        except Wrong as wrong:
            trial.failure, trial.over = str(wrong), False
        finally:
            clients.cancel()
            looking.cancel()
            await asyncio.wait([clients, looking])
    return trial


async def _look(pressure: Pressure) -> None:
    while True:
        pressure.look()
        await asyncio.sleep(0.05)


async def _live(trial: Trial, port: int, point: Point | None, clients: asyncio.Task[None]) -> None:
    """Run one life of the server until it dies at the point, or until the clients have seen the end."""
    trial.lives += 1
    server = PROCESSES.Process(
        target=killing.serve, args=(trial.post(port), point, [trial.fault] * bool(trial.fault)), daemon=True
    )
    server.start()
    death = asyncio.create_task(_dead(server.sentinel))
    try:
        await asyncio.wait((death, clients), return_when=asyncio.FIRST_COMPLETED)
        if clients.done():
            return
        server.join()
        if point is None or server.exitcode != -signal.SIGKILL:
            log = trial.post().log.read_text(encoding="utf-8", errors="replace")
            raise Wrong(f"life {trial.lives} ended without a kill, with {server.exitcode}:\n{log[-3000:]}")
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
    """Run the caller and the watchers to the end."""
    address = f"127.0.0.1:{port}"
    try:
        async with Client(address) as caller, Client(address) as watcher, asyncio.TaskGroup() as group:
            group.create_task(_call(trial, caller, value))
            for workflow_id in (SUBJECT, *trial.case.beside):
                group.create_task(_watch_raw(trial, watcher, workflow_id))
            group.create_task(_watch(trial, watcher, FILTER))
    except ExceptionGroup as group:
        raise Wrong(f"a client got {group.exceptions}") from group


async def _call(trial: Trial, client: Client, value: Any) -> None:
    """Start the workflow, send the signals that it waits for, wait for its end, and start it once more."""
    case, replies = trial.case, trial.replies
    await _start(trial, client, value)
    for name, data in case.signals:
        await client.signal(SUBJECT, name, data, request_id=f"{name}-1")
        replies.append(Reply("signalled", SUBJECT, f"{name}-1"))
    if case.cancel:
        await client.cancel(SUBJECT, "enough")
        replies.append(Reply("cancelled", SUBJECT, None))
    if case.operate is not None:
        await case.operate(trial, client)
    trial.final = await _end(trial, client, SUBJECT)
    for workflow_id in case.beside:
        await _end(trial, client, workflow_id)
    await _start(trial, client, value)


async def _start(trial: Trial, client: Client, value: Any) -> None:
    requests = [
        workflow_service_pb2.StartWorkflowRequest(
            workflow_id=workflow_id,
            workflow_type=trial.case.workflow_type,
            input=payload_pb2.Payload(json=json.dumps(value)),
        )
        for workflow_id in (SUBJECT, *trial.case.beside)
    ]
    if len(requests) == 1:
        replies = [await client.caller.call_with_retry(client.stub.StartWorkflow, requests[0])]
    else:
        batch = workflow_service_pb2.BatchStartWorkflowsRequest(requests=requests)
        outcomes = (await client.caller.call_with_retry(client.stub.BatchStartWorkflows, batch)).outcomes
        replies = [outcome.response for outcome in outcomes]
    for request, reply in zip(requests, replies, strict=True):
        trial.replies.append(Reply("started", request.workflow_id, reply.workflow.uid))


async def _end(trial: Trial, client: Client, workflow_id: str) -> workflow_pb2.Workflow:
    """Wait for a workflow's end."""
    while True:
        try:
            workflow = await client.get(workflow_id, wait=LIMIT)
        except WorkflowNotFound:
            if trial.deaths:
                raise
            await asyncio.sleep(0.02)  # The start was acknowledged; the next death shows whether it was stored.
            continue
        if workflow.state in FINAL_STATES:
            trial.replies.append(Reply("result", workflow_id, workflow))
            return workflow


async def _watch_raw(trial: Trial, client: Client, workflow_id: str) -> None:
    """Watch all events with the bare stub, so that no client code repairs or hides what the server sends."""
    watched = Watched(workflow_id)
    trial.watched.append(watched)
    cursor = 0
    while not watched.ended:
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id, after_sequence=cursor)
        try:
            async for frame in client.stub.WatchWorkflow(request):
                watched.events += frame.events
                cursor = frame.last_sequence
            watched.ended = True
        except grpc.aio.AioRpcError as error:
            if error.code() not in AGAIN:
                raise
            await asyncio.sleep(0.02)


async def _watch(trial: Trial, client: Client, kinds: Sequence[int]) -> None:
    """Watch the workflow from its first event to its last, from before it exists."""
    watched = Watched(SUBJECT, tuple(kinds))
    trial.watched.append(watched)
    while not watched.ended:
        try:
            async for event in client.handle(SUBJECT).watch(kinds=kinds):
                watched.events.append(event)
            watched.ended = True
        except (WorkflowNotFound, SequenceOutOfRange):
            await asyncio.sleep(0.02)
