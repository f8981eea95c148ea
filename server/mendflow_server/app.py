"""The composition root: builds every part, starts them in order, and stops them in the reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import structlog

from mendflow.authoring.workflow import check_steps
from mendflow_server.api.operator_service import OperatorService
from mendflow_server.api.reflection import pools_of
from mendflow_server.api.server import build_grpc_server
from mendflow_server.api.server_watchdog import GrpcServer
from mendflow_server.api.workflow_service import WorkflowService
from mendflow_server.engine.engine import Engine
from mendflow_server.engine.watch_hub import WatchHub
from mendflow_server.execution.crash_marker import Note
from mendflow_server.health.monitor import HealthInputs as Signals
from mendflow_server.health.monitor import HealthMonitor
from mendflow_server.http.server import HttpServer
from mendflow_server.replay.forgotten import notice_forgotten
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.runtime.forking import Belongings, armed
from mendflow_server.runtime.version import VERSION
from mendflow_server.store.committer import Committer
from mendflow_server.store.factory import files_of, open_store
from mendflow_server.supervisor.supervisor import Supervisor
from mendflow_server.telemetry import build_exporter, trace_from_metadata
from mendflow_server.telemetry.log_observer import LogsAndSpans

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.settings import Settings

log = structlog.get_logger("mendflow.app")

#: The garbage collector's thresholds: allocations, and collections of the two younger generations.
COLLECT_AFTER = (30_000, 20, 20)
#: For how long a thread may keep the interpreter's lock that another one asks for, in seconds.
SWITCH_INTERVAL = 0.001

#: The signals that begin a drain; the second one ends the process.
ENDING = (signal.SIGTERM, signal.SIGINT)

#: What is left of the drain's time for closing what was cut off, in seconds.
DRAIN_RESERVE = 3.0
#: How often the drain looks whether it is done, in seconds.
DRAIN_LOOK = 0.02


class App:
    """One server process. Use it as an async context manager; it serves from then on."""

    def __init__(
        self, settings: Settings, definitions: Mapping[str, Workflow[Any, Any]], *, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.definitions = definitions
        self.clock = clock or SystemClock()
        self.replica_id = f"{os.uname().nodename[:40]}-{os.getpid()}-{os.urandom(3).hex()}"
        self.grpc_port = 0
        self.http_port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stack = contextlib.AsyncExitStack()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        """Open the store, recover, serve. Raises `StoreRefused`, `CannotListen`, `DefinitionError`."""
        for definition in self.definitions.values():
            definition.check()
            check_steps(inspect.unwrap(definition.function).__globals__)
        async with contextlib.AsyncExitStack() as stack:
            await self._build(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop without a drain, as far as that has not been done."""
        await self._stack.aclose()

    async def _build(self, stack: contextlib.AsyncExitStack) -> None:
        settings, clock = self.settings, self.clock
        self.store = open_store(settings.store, signal_limit=settings.untaken_signals_limit)
        await self.store.open()
        stack.push_async_callback(self.store.close)
        clock.go_on_from(await self.store.last_beat() / 1e6)
        note = Note(self.store.note)
        stack.callback(note.close)
        spans = build_exporter()
        if spans is not None:
            stack.push_async_callback(asyncio.to_thread, spans.shutdown)
        self.committer = Committer(self.store, clock)
        self.watchers = WatchHub(self.store, settings)
        self.engine = Engine(
            settings=settings,
            clock=clock,
            store=self.store,
            committer=self.committer,
            watchers=self.watchers,
            observer=LogsAndSpans(spans),
            note=note,
            definitions=self.definitions,
            replica_id=self.replica_id,
        )
        stack.callback(self.engine.close)
        stack.enter_context(notice_forgotten(asyncio.get_running_loop()))
        self.watchers.find = self.engine.find
        self.supervisor = Supervisor(engine=self.engine, store=self.store, clock=clock, settings=settings)
        stack.callback(self.supervisor.close)
        stack.push_async_callback(self._stop_tasks)
        self.health = HealthMonitor(clock, settings, self._signals)
        await self._listen(stack)
        self._run(self.grpc.run())
        self._run(self.committer.run())
        self._run(self.supervisor.run())
        self._run(self.health.run())
        self._run(self._beats())
        self._run(self.supervisor.recover())

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        trace = partial(trace_from_metadata, random_bytes=self.engine.entropy)
        build = partial(
            build_grpc_server,
            settings,
            workflow_service=WorkflowService(self.engine, settings, trace=trace, version=VERSION),
            operator_service=OperatorService(self.engine, settings),
            health_servicer=self.health.servicer,
            pools=pools_of(self.definitions),
        )
        self.grpc = GrpcServer(build, settings.grpc_address)
        self.grpc_port = self.grpc.port
        http = HttpServer(settings.http_address, self.health, version=VERSION, replica_id=self.replica_id)
        await http.start()
        stack.push_async_callback(http.stop)
        self.http_port = http.port
        await self.grpc.start()
        stack.push_async_callback(self.grpc.stop, 0)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._failed.done():
            log.critical("part_failed", exc_info=task.exception())
            self._failed.set_exception(task.exception() or RuntimeError())

    async def _stop_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _beats(self) -> None:
        """Prove the store by a small write every few seconds, also when nothing happens."""
        while True:
            await asyncio.sleep(self.settings.probe_interval)
            if await self.supervisor.beat():
                self.committer.last_commit = self.clock.monotonic()

    def _signals(self) -> Signals:
        now = self.clock.monotonic()
        oldest = self.committer.oldest
        return Signals(
            oldest_uncommitted_age=None if oldest is None else now - oldest,
            last_commit_age=now - self.committer.last_commit,
            last_tick_age=now - self.supervisor.last_tick,
            recovered=self.supervisor.recovered,
            draining=self.engine.draining,
            store_failure=self.committer.failing or self.engine.trying.failing,
            store_damage=self.store.damage,
        )

    async def failure(self) -> None:
        """Wait until a part of the server fails, and raise what it raised."""
        await asyncio.shield(self._failed)

    async def drain(self) -> None:
        """Stop claiming, let short attempts finish, hand the rest over, end the streams."""
        engine, settings = self.engine, self.settings
        log.info("draining", attempts=engine.running, seconds=settings.drain_timeout)
        began = self.clock.monotonic()
        engine.begin_drain()
        self.health.probe()
        self.watchers.drain()
        reserve = min(DRAIN_RESERVE, settings.drain_timeout / 2)
        await self._until(lambda: engine.running == 0 and engine.settled, began + settings.drain_timeout - reserve)
        engine.cut_attempts()
        await self._until(lambda: engine.settled, began + settings.drain_timeout - reserve / 2)
        await self.grpc.stop(0.5)
        await self.supervisor.record_drain(reserve / 2)
        log.info("drained", attempts_left=engine.running, seconds=round(self.clock.monotonic() - began, 3))

    async def _until(self, done: Any, limit: float) -> None:
        while not done() and self.clock.monotonic() < limit:  # noqa: ASYNC110 - many things at once may end it
            await asyncio.sleep(DRAIN_LOOK)


async def serve(settings: Settings, definitions: Mapping[str, Workflow[Any, Any]]) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Answers the process's exit code."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in ENDING:
        loop.add_signal_handler(number, stop.set)
    with armed(Belongings(loop, ENDING)) as belongings:
        belongings.files = files_of(settings.store)
        return await _serve(settings, definitions, stop, belongings)


async def _serve(
    settings: Settings, definitions: Mapping[str, Workflow[Any, Any]], stop: asyncio.Event, belongings: Belongings
) -> int:
    loop = asyncio.get_running_loop()
    async with App(settings, definitions) as app:
        belongings.ports = frozenset({app.grpc_port, app.http_port})
        collect_less()
        share_lock()
        log.info(
            "serving",
            version=VERSION,
            grpc=_bound(settings.grpc_address, app.grpc_port),
            http=_bound(settings.http_address, app.http_port),
            store=settings.store,
            replica_id=app.replica_id,
            workflows=sorted(definitions),
        )
        stopped = loop.create_task(stop.wait())
        failed = loop.create_task(app.failure())
        await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            stopped.cancel()
            return 1
        failed.cancel()
        for number in ENDING:
            # Not by removing the loop's handler: for SIGINT that brings back Python's own, which would raise
            # KeyboardInterrupt inside a workflow's code.
            signal.signal(number, signal.SIG_DFL)
        await app.drain()
    return 0


def share_lock() -> None:
    """Have the loop give up the interpreter's lock soon when another thread asks for it.

    The store's thread needs it for some microseconds between statements: by default it waits 5 ms for it each time the
    loop is busy, and while it waits nothing is on its way to the disk.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)


def collect_less() -> None:
    """Have the garbage collector look at less, less often: by default it took a third of the server's time.

    What the start has left is there to stay; and a workflow's memory is free as soon as it is dropped, without it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _bound(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
