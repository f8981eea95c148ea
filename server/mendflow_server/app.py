"""The composition root: builds every part, starts them in order, and stops them in the reverse."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import structlog

from mendflow.authoring.failures.retry import decide
from mendflow.authoring.workflow import check_steps
from mendflow_server.api.operator_service import OperatorService
from mendflow_server.api.reflection import pools_of
from mendflow_server.api.server import build_grpc_server
from mendflow_server.api.server_watchdog import GrpcServer
from mendflow_server.api.workflow_service import WorkflowService
from mendflow_server.attempts.attempt_runner import AttemptRunner
from mendflow_server.attempts.slots import RUNNING_PER_SLOT
from mendflow_server.engine.engine import Engine
from mendflow_server.execution.crash_marker import CrashMarker
from mendflow_server.execution.dispatcher import Dispatcher
from mendflow_server.execution.inbox_reader import InboxReader
from mendflow_server.execution.services import Services
from mendflow_server.healing.admission import AdmissionGate
from mendflow_server.healing.crash_guard import CrashGuard
from mendflow_server.health.monitor import HealthInputs, HealthMonitor
from mendflow_server.http.server import HttpServer
from mendflow_server.replay.forgotten import notice_forgotten
from mendflow_server.runtime.build import build_of
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.runtime.ending_signals import EndingSignals
from mendflow_server.runtime.forking import Belongings, armed
from mendflow_server.runtime.identity import Identity
from mendflow_server.runtime.interpreter import collect_less, share_lock
from mendflow_server.runtime.random_bytes import RandomBytes
from mendflow_server.runtime.threads import mend_hooks
from mendflow_server.runtime.timers import Timers
from mendflow_server.runtime.version import VERSION
from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.addresses import shown
from mendflow_server.store.committer import Committer
from mendflow_server.store.factory import files_of, open_store
from mendflow_server.store.retrying import RetryingStore
from mendflow_server.supervisor.database_clock import DatabaseClock
from mendflow_server.supervisor.judgement import Judge
from mendflow_server.supervisor.lease import Lease
from mendflow_server.supervisor.loop_watch import LoopWatch
from mendflow_server.supervisor.orphans import Orphans
from mendflow_server.supervisor.purger import Purger
from mendflow_server.supervisor.recovery import Recovery
from mendflow_server.supervisor.replicas import Replicas
from mendflow_server.supervisor.supervisor import Supervisor
from mendflow_server.supervisor.takeover import Takeover
from mendflow_server.supervisor.this_replica import ThisReplica
from mendflow_server.supervisor.unfinished import Unfinished
from mendflow_server.telemetry import (
    build_exporter,
    build_observer,
    build_sampler,
    log_ignored_variables,
    trace_from_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.exit_guard import ExitGuard
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store
    from mendflow_server.telemetry.observer import Observer

log = structlog.get_logger("mendflow.app")

#: The signals that begin a drain; the second one ends the process.
ENDING = (signal.SIGTERM, signal.SIGINT)

#: The drain keeps so much of its time for closing the attempts that it interrupts, in seconds.
DRAIN_RESERVE = 3.0
#: How often the drain gives up workflows of which nothing runs any more, in seconds.
LET_GO_LOOK = 0.1
#: How often the drain checks whether it is done, in seconds.
DRAIN_LOOK = 0.02


@dataclass(frozen=True)
class Parts:
    """What the server is built of. Each part is called with keywords, as `App` calls it; tests replace some."""

    clock: Callable[[], Clock] = SystemClock
    open_store: Callable[..., Store] = open_store
    committer: Callable[..., Committer] = Committer
    attempts: Callable[..., AttemptRunner] = AttemptRunner
    observer: Callable[..., Observer] = build_observer
    engine: Callable[..., Engine] = Engine
    supervisor: Callable[..., Supervisor] = Supervisor
    health: Callable[..., HealthMonitor] = HealthMonitor
    purger: Callable[..., Purger] = Purger
    replicas: Callable[..., Replicas] = Replicas
    #: Whether the server opens its ports. Without them, only code in this process reaches it, and no one asks for its
    #: health.
    listens: bool = True


class App:
    """One server process, as an async context manager. It serves from `__aenter__` on."""

    def __init__(
        self, settings: Settings, definitions: Mapping[str, Workflow[Any, Any]], *, parts: Parts | None = None
    ) -> None:
        self.settings = settings
        self.definitions = definitions
        self._parts = parts or Parts()
        self.clock = self._parts.clock()
        self.identity = Identity()
        self.build = settings.build or build_of(definitions.values())
        self._random_bytes = RandomBytes()
        self.grpc: GrpcServer | None = None
        self.grpc_port = 0
        self.http_port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stack = contextlib.AsyncExitStack()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def replica_id(self) -> str:
        """The id of this replica."""
        return self.identity.replica_id

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
        settings, clock, parts = self.settings, self.clock, self._parts
        await self._open_store(stack)
        self.retrying = RetryingStore(self.store)
        guard = CrashGuard(store=self.store, retrying=self.retrying, clock=clock, budget=settings.crash_budget)
        self.services = self._build_services(stack, guard)
        self.committer = self.services.committer
        self.engine = parts.engine(
            services=self.services,
            store=self.store,
            retrying=self.retrying,
            random_bytes=self._random_bytes,
            definitions=self.definitions,
            identity=self.identity,
        )
        stack.callback(self.engine.close)
        stack.enter_context(notice_forgotten(asyncio.get_running_loop()))
        self._build_supervisor(guard)
        stack.callback(self.supervisor.close)
        self.purger = parts.purger(
            store=self.store, clock=clock, settings=settings, definitions=self.definitions, may_run=self._may_purge
        )
        stack.push_async_callback(self._stop_tasks)
        self.health = parts.health(clock, settings, self._signals)
        await self._start(stack)

    async def _open_store(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        access = DatabaseAccess(
            password_file=settings.store_password_file,
            reading_connections=settings.store_reading_connections,
            connect_timeout=settings.store_connect_timeout,
            statement_timeout=settings.store_statement_timeout,
        )
        self.store = self._parts.open_store(
            settings.store,
            signal_limit=settings.untaken_signals_limit,
            lease=settings.lease,
            build=self.build,
            access=access,
        )
        await self.store.open()
        stack.push_async_callback(self.store.close)
        self.clock.resume_from(await self.store.last_beat() / 1e6)

    def _build_supervisor(self, guard: CrashGuard) -> None:
        judge = Judge(loader=self.engine.loader, guard=guard)
        recovery = Recovery(
            identity=self.identity,
            loader=self.engine.loader,
            judge=judge,
            marker=self.services.crash_marker,
            store=self.store,
            retrying=self.retrying,
            clock=self.clock,
        )
        self.replicas = self._build_replicas(recovery, judge)
        self.supervisor = self._parts.supervisor(
            engine=self.engine,
            recovery=recovery,
            guard=guard,
            store=self.store,
            retrying=self.retrying,
            clock=self.clock,
            replicas=self.replicas,
        )

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the ports, and begin all that runs in the background."""
        if self._parts.listens:
            self._run((await self._listen(stack)).run())
            self._run(self.health.run())
            watch = stack.enter_context(LoopWatch(self.settings.loop_lag_limit))
            self._run(watch.run())
        self._run(self.committer.run())
        self._run(self.supervisor.run())
        self._run(self.supervisor.release_suspects())
        self._run(self.purger.run())
        self._run(self.supervisor.beats(self._beat_interval(), self.committer.probed))
        self._run(self._recover())
        if self.engine.news is not None:
            self._run(self.engine.news.run())

    def _build_replicas(self, recovery: Recovery, judge: Judge) -> Replicas | None:
        """Build what watches the other replicas, where the store can have several."""
        engine, sharing = self.engine, self.engine.sharing
        if sharing is None:
            return None
        takeover = Takeover(
            store=self.store,
            shared=sharing.store,
            retrying=self.retrying,
            judge=judge,
            cache=engine.cache,
            identity=self.identity,
            clock=self.clock,
        )
        orphans = Orphans(
            store=self.store,
            sharing=sharing,
            retrying=self.retrying,
            loader=engine.loader,
            cache=engine.cache,
            clock=self.clock,
            limit=self.settings.workflows_in_memory_limit,
        )
        this = ThisReplica(
            engine=engine,
            sharing=sharing,
            identity=self.identity,
            recovery=recovery,
            judge=judge,
            lease=Lease(self.clock, self.settings.lease),
            unfinished=Unfinished(self.store, self.retrying),
            clock=self.clock,
        )
        return self._parts.replicas(
            this=this,
            sharing=sharing,
            takeover=takeover,
            orphans=orphans,
            database_clock=DatabaseClock(sharing.store, self.clock),
            retrying=self.retrying,
            clock=self.clock,
        )

    def _beat_interval(self) -> float:
        """Return the time between two beats, in seconds. Each renews the lease, where there is one."""
        settings = self.settings
        return settings.probe_interval if self.replicas is None else min(settings.probe_interval, settings.lease / 3)

    def _build_services(self, stack: contextlib.AsyncExitStack, guard: CrashGuard) -> Services:
        """Build what executions share."""
        settings, clock, parts = self.settings, self.clock, self._parts
        loop = asyncio.get_running_loop()
        marker = CrashMarker(self.store.crash_marker_path, threads=RUNNING_PER_SLOT * settings.thread_slots)
        stack.callback(marker.close)
        spans = build_exporter()
        if spans is not None:
            stack.push_async_callback(asyncio.to_thread, spans.shutdown)
            stack.callback(mend_hooks)  # Before that: it may need a new thread.
        monotonic_timers = Timers(loop, clock.monotonic)
        attempts = parts.attempts(
            clock=clock,
            timers=monotonic_timers,
            slots=settings.attempt_slots,
            threads=settings.thread_slots,
            payload_limit=settings.payload_limit,
            cancel_grace=settings.cancel_grace,
            loop_mark=marker.loop_mark,
            thread_marks=marker.thread_marks,
        )
        dispatcher = Dispatcher(clock, attempts.task_slots.offer)
        return Services(
            settings=settings,
            clock=clock,
            wall_timers=Timers(loop, clock.time),
            monotonic_timers=monotonic_timers,
            committer=parts.committer(self.store, clock, dispatcher.run_stages),
            attempts=attempts,
            dispatcher=dispatcher,
            admission=AdmissionGate(attempts, guard),
            observer=parts.observer(spans),
            crash_marker=marker,
            inbox=InboxReader(self.store, self.retrying),
            decide=decide,
            random=random.Random().random,  # noqa: S311 - for jitter
        )

    async def _listen(self, stack: contextlib.AsyncExitStack) -> GrpcServer:
        settings = self.settings
        trace = partial(trace_from_metadata, random_bytes=self._random_bytes, sampler=build_sampler())
        log_ignored_variables()
        build = partial(
            build_grpc_server,
            settings,
            workflow_service=WorkflowService(
                self.engine, settings, trace=trace, health=lambda: self.health.ready, version=VERSION
            ),
            operator_service=OperatorService(self.engine, settings),
            health_servicer=self.health.servicer,
            pools=pools_of(self.definitions),
        )
        grpc = self.grpc = GrpcServer(build, settings.grpc_address)
        self.grpc_port = grpc.port
        http = HttpServer(settings.http_address, self.health, version=VERSION, replica_id=lambda: self.replica_id)
        await http.start()
        stack.push_async_callback(http.stop)
        self.http_port = http.port
        await grpc.start()
        stack.push_async_callback(grpc.stop, 0)
        return grpc

    def _may_purge(self) -> bool:
        """Return whether the purger may work: recovery is done, no drain has begun, and the store commits."""
        return self.supervisor.recovered and not self.engine.draining and not self.committer.failure

    async def _recover(self) -> None:
        """Recover, and look at the other replicas from then on."""
        await self.supervisor.recover()
        self.health.probe()  # The monitor looks again only 20 ms later.
        if self.replicas is not None:
            await self.replicas.run()

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

    def _signals(self) -> HealthInputs:
        now = self.clock.monotonic()
        oldest = self.committer.uncommitted_since
        attempts = self.services.attempts
        return HealthInputs(
            oldest_uncommitted_age=None if oldest is None else now - oldest,
            last_commit_age=now - self.committer.last_commit,
            last_tick_age=now - self.supervisor.last_tick,
            recovered=self.supervisor.recovered,
            draining=self.engine.draining,
            store_failure=self.committer.failure
            or self.retrying.failure
            or self.supervisor.beat_failure
            or self._lease_failure(),
            store_damage=self.store.damage,
            attempts_hung=attempts.hung,
            slots_exhausted=tuple(
                f"{setting}={slots.size}"
                for setting, slots in (
                    ("MENDFLOW_ATTEMPT_SLOTS", attempts.task_slots),
                    ("MENDFLOW_THREAD_SLOTS", attempts.thread_slots),
                )
                if slots.exhausted
            ),
        )

    def _lease_failure(self) -> str:
        return "" if self.replicas is None else self.replicas.this.failure

    async def failure(self) -> None:
        """Wait until a part of the server fails, and raise what it raised."""
        await asyncio.shield(self._failed)

    async def drain(self) -> None:
        """Start nothing more, let short attempts finish, interrupt the rest, and end the streams."""
        engine, settings = self.engine, self.settings
        log.info("draining", attempts=engine.attempts_running, seconds=settings.drain_timeout)
        began = self.clock.monotonic()
        engine.drain()
        self.health.probe()
        engine.watchers.drain()
        reserve = min(DRAIN_RESERVE, settings.drain_timeout / 2)
        limit = began + settings.drain_timeout - reserve
        sharing = asyncio.get_running_loop().create_task(self._let_go())
        await self._until(lambda: engine.attempts_running == 0 and engine.settled, limit)
        engine.hand_over()
        await self._until(lambda: engine.settled, began + settings.drain_timeout - reserve / 2)
        sharing.cancel()
        if self.grpc is not None:
            await self.grpc.stop(0.5)
        await self.supervisor.record_drain(reserve / 2)
        if engine.sharing is not None:
            engine.sharing.notices.left()
            await asyncio.sleep(DRAIN_LOOK)  # The notice is posted before the connection is closed.
        log.info("drained", attempts_left=engine.attempts_running, seconds=round(self.clock.monotonic() - began, 3))

    async def _let_go(self) -> None:
        """Give up workflows of which nothing runs here any more, so that other replicas continue them at once."""
        sharing = self.engine.sharing
        while sharing is not None:
            if sharing.roster.others:
                keys = self.engine.cache.evict_stored()
                if keys:
                    await sharing.release(keys)
            await asyncio.sleep(LET_GO_LOOK)

    async def _until(self, done: Any, limit: float) -> None:
        while not done() and self.clock.monotonic() < limit:  # noqa: ASYNC110 - many things at once may end it
            await asyncio.sleep(DRAIN_LOOK)


async def serve(
    settings: Settings,
    definitions: Mapping[str, Workflow[Any, Any]],
    *,
    new_app: Callable[[Settings, Mapping[str, Workflow[Any, Any]]], App] = App,
    guard: ExitGuard,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain. Return the process's exit code.

    From the signal on, the guard limits how long the process may take to end.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end() -> None:
        guard.limit(settings.drain_timeout + settings.exit_timeout, 1)
        loop.call_soon_threadsafe(stop.set)

    signals = EndingSignals(ENDING, end)
    with armed(Belongings(loop, ENDING)) as belongings:
        belongings.files = files_of(settings.store)
        code = await _serve(new_app(settings, definitions), stop, signals, belongings, guard)
    guard.limit(settings.exit_timeout, code)
    return code


async def _serve(
    app: App, stop: asyncio.Event, signals: EndingSignals, belongings: Belongings, guard: ExitGuard
) -> int:
    loop = asyncio.get_running_loop()
    settings = app.settings
    async with app:
        belongings.ports = frozenset({app.grpc_port, app.http_port})
        belongings.connections = app.store.connections
        collect_less()
        share_lock()
        log.info(
            "serving",
            version=VERSION,
            grpc=_bound(settings.grpc_address, app.grpc_port),
            http=_bound(settings.http_address, app.http_port),
            store=shown(settings.store),
            replica_id=app.replica_id,
            build=app.build,
            workflows=sorted(app.definitions),
        )
        stopped = loop.create_task(stop.wait())
        failed = loop.create_task(app.failure())
        kept = loop.create_task(signals.keep())
        await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
        kept.cancel()
        if failed.done():
            stopped.cancel()
            guard.limit(settings.exit_timeout, 1)
            return 1
        failed.cancel()
        await app.drain()
        guard.limit(settings.exit_timeout, 0)
    return 0


def _bound(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
