"""A server with a fault: the real server, without the mechanism of one promise.

The checker must report each fault under its promise's name. A fault replaces parts of the server through their
constructors (`mendflow_server.app.Parts`). Nothing in the shipped server can switch it on. There are also disturbances.
They look similar but break no promise, because the real mechanism is there.
"""

from __future__ import annotations

import asyncio
import functools
import mmap
import os
import struct
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from mendflow.v1 import failure_pb2
from mendflow_server.app import App, Parts
from mendflow_server.attempts.attempt_runner import AttemptRunner
from mendflow_server.engine.engine import Engine
from mendflow_server.engine.requests import StartResult
from mendflow_server.engine.watch_hub import WatchHub
from mendflow_server.execution.execution import Execution
from mendflow_server.health.monitor import HealthMonitor
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.store.committer import Committer
from mendflow_server.store.errors import CommitUnknown, StoreError, StoreUnavailable
from mendflow_server.store.factory import open_store
from mendflow_server.store.sqlite.connection import WRITER_PRAGMAS
from mendflow_server.store.sqlite.file_lock import FileLock
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.store import SqliteStore
from mendflow_server.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1 import event_pb2
    from mendflow.v1.workflow_service_pb2 import WatchWorkflowResponse
    from mendflow_server.attempts.model import AttemptRequest, AttemptResult
    from mendflow_server.attempts.running_attempt import RunningAttempt
    from mendflow_server.execution.start_command import StartCommand
    from mendflow_server.health.monitor import HealthInputs
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Batch, BatchResult, Change

#: How long a slow commit takes, in seconds: long enough for a reply to leave before it.
SLOW = 0.3
#: While these files are in the server's directory, `troubled` makes trouble.
NO_TICK, NO_COMMIT = Path("no-tick"), Path("no-commit")


@dataclass(frozen=True)
class Build:
    """How a server is built: its parts, and what its store is made of."""

    parts: Parts = field(default_factory=Parts)
    app: Callable[..., App] = App
    #: Makes the store of a path.
    sqlite: Callable[..., SqliteStore] = SqliteStore
    #: Each gets the store and returns one around it.
    around_store: tuple[Callable[[Any], Any], ...] = ()

    def with_parts(self, **changed: Any) -> Build:
        """Return the build with other parts."""
        return replace(self, parts=replace(self.parts, **changed))

    def with_store(self, around: Callable[[Any], Any]) -> Build:
        """Return the build with another store around the present one."""
        return replace(self, around_store=(*self.around_store, around))

    def open_store(self, url: str, **options: Any) -> Store:
        """Make the store of a URL."""
        store: Any = open_store(url, sqlite=self.sqlite, **options)
        for around in self.around_store:
            store = around(store)
        made: Store = store
        return made

    def new_app(self, settings: Settings, definitions: Mapping[str, Workflow[Any, Any]]) -> App:
        """Make the server."""
        return self.app(settings, definitions, parts=replace(self.parts, open_store=self.open_store))


def build_with(names: Iterable[str], build: Build | None = None) -> Build:
    """Return a build, the shipped one by default, with these faults and disturbances."""
    build = build or Build()
    for name in names:
        build = FAULTS[name](build)
    return build


class Around:
    """A store around another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def reply_before_commit(build: Build) -> Build:
    """A start is acknowledged while its commit is in flight."""

    class Hasty(Engine):
        def start(self, command: StartCommand) -> asyncio.Future[StartResult]:
            future = super().start(command)
            execution = self.cache.find(command.workflow_id)
            if not future.done() and execution is not None:
                future.set_result(StartResult(execution.row, started=True))
            return future

    return slow_commits(build.with_parts(engine=Hasty))


class _SlowStore(Around):
    async def commit(self, batch: Batch) -> BatchResult:
        await asyncio.sleep(SLOW)
        result: BatchResult = await self._inner.commit(batch)
        return result


def slow_commits(build: Build) -> Build:
    """Delay each commit (a disturbance)."""
    return build.with_store(_SlowStore)


def signal_before_commit(build: Build) -> Build:
    """A signal is acknowledged while its commit is in flight."""
    sending: set[asyncio.Task[bool]] = set()

    class Hasty(Engine):
        async def signal(self, workflow_id: str, **options: Any) -> bool:
            task = asyncio.get_running_loop().create_task(super().signal(workflow_id, **options))
            sending.add(task)
            task.add_done_callback(sending.discard)
            return False

    return slow_commits(build.with_parts(engine=Hasty))


class _HastyCommitter(Committer):
    """Reports each change when it is submitted."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.report: Callable[[Change], None] = _nothing

    def submit(self, change: Change, done: Any) -> None:
        super().submit(change, done)
        self.report(change)


def _nothing(_change: Change) -> None:
    pass


def result_before_commit(build: Build) -> Build:
    """Callers that wait for a workflow's end learn of it while its commit is in flight."""

    class Hasty(Engine):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            parts["services"].committer.report = self._report

        def _report(self, change: Change) -> None:
            if change.final:
                self.waiters.ended(change.row, _event(change.events[-1][1]))

    return slow_commits(build.with_parts(engine=Hasty, committer=_HastyCommitter))


def _event(data: bytes) -> event_pb2.Event:
    from mendflow.v1 import event_pb2 as module  # noqa: PLC0415

    return module.Event.FromString(data)


def frame_before_commit(build: Build) -> Build:
    """Watchers get what is not committed yet."""
    published: dict[int, int] = {}

    class Once(WatchHub):
        def publish(self, key: int, events: Sequence[event_pb2.Event], *, ended: bool) -> None:
            new = [event for event in events if event.sequence > published.get(key, 0)]
            if new:
                published[key] = new[-1].sequence
            super().publish(key, new, ended=ended)

    class Hasty(Engine):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts, watch_hub=Once)
            parts["services"].committer.report = self._report

        def _report(self, change: Change) -> None:
            if change.row.key:
                self.watchers.publish(change.row.key, [_event(data) for _, data in change.events], ended=False)

    return slow_commits(build.with_parts(engine=Hasty, committer=_HastyCommitter))


class _NoLock(FileLock):
    def take(self) -> None:
        pass


def no_generation_check(build: Build) -> Build:
    """Run two engines on one store, and write a row whichever engine sends it.

    The statements are data of the process, which belongs to the test.
    """
    guard = "key = column10 AND generation = column11 AND last_sequence = column12"
    blind = {
        "update_workflow": QUERIES["update_workflow"].replace(guard, "key = column10"),
        "insert_event": QUERIES["insert_event"].replace("INSERT INTO", "INSERT OR REPLACE INTO"),
    }
    assert all(QUERIES[name] != query for name, query in blind.items())
    QUERIES.update(blind)
    return two_engines(build)


def two_engines(build: Build) -> Build:
    """A disturbance: the file lock is off, and a second server takes over while the first one still runs a step."""

    class Two(App):
        async def __aenter__(self) -> Self:
            await super().__aenter__()
            second = App(self.settings, self.definitions, parts=self._parts)
            self._run(self._start_second(second))
            return self

        async def _start_second(self, second: App) -> None:
            while not self.engine.attempts_running:
                await asyncio.sleep(0.005)
            await self.grpc.stop(0)  # Its clients find the second; its engine continues.
            async with second:
                await asyncio.Event().wait()

    return replace(build, app=Two, sqlite=functools.partial(build.sqlite, lock=_NoLock))


def attempt_without_record(build: Build) -> Build:
    """Each attempt runs once more, off the record."""

    class Deaf:
        def reported(self, attempt: RunningAttempt, result: AttemptResult) -> None:
            pass

        def heard(self, attempt: RunningAttempt) -> None:
            pass

        def ended(self, attempt: RunningAttempt) -> None:
            pass

    class Twice(AttemptRunner):
        def launch(self, request: AttemptRequest, listener: Any, context: Any) -> RunningAttempt:
            super().launch(request._replace(number=request.number + 100), Deaf(), context.copy())
            return super().launch(request, listener, context)

    return build.with_parts(attempts=Twice)


def dropped_frame(build: Build) -> Build:
    """Each watch loses its first frame with events."""
    return _change_frames(build, 0)


def repeated_frame(build: Build) -> Build:
    """Each watch sends its first frame with events twice."""
    return _change_frames(build, 2)


def _change_frames(build: Build, times: int) -> Build:
    class Changed(WatchHub):
        async def watch(self, workflow_id: str, **options: Any) -> AsyncIterator[WatchWorkflowResponse]:
            first = True
            async for frame in super().watch(workflow_id, **options):
                for _ in range(times if first and frame.events else 1):
                    yield frame
                first = first and not frame.events

    return build.with_parts(engine=functools.partial(Engine, watch_hub=Changed))


def timer_lost_on_recovery(build: Build) -> Build:
    """A workflow that another process drove before gets no timer."""

    class Forgetful(Execution):
        def _arm_timer(self) -> None:
            if self.row.generation == 1:
                super()._arm_timer()

    return build.with_parts(engine=functools.partial(Engine, new_execution=Forgetful))


def result_run_again(build: Build) -> Build:
    """A workflow that is read from the store has no steps.

    It is not enough to leave out their results: code that asks for a new step, while another is recorded, pauses.
    """

    class Forgetful(Execution):
        def __init__(self, services: Any, events: Any, row: Any, history: Any, **options: Any) -> None:
            for key, record in list(history.calls.items()):
                if record.kind == "step":
                    del history.calls[key]
                    history.open.pop(key, None)
            super().__init__(services, events, row, history, **options)

    return build.with_parts(engine=functools.partial(Engine, new_execution=Forgetful))


def lost_answer_taken_for_failure(build: Build) -> Build:
    """A start is committed, the answer of the COMMIT is lost, and the store says that nothing was changed."""
    return _lose_answers(build, StoreUnavailable)


def lost_answer(build: Build) -> Build:
    """A disturbance: the same, and the store says that it does not know."""
    return _lose_answers(build, CommitUnknown)


def _lose_answers(build: Build, error: type[StoreError]) -> Build:
    recovered = asyncio.Event()

    class Recovering(Supervisor):
        async def recover(self) -> None:
            await super().recover()
            recovered.set()

    class Losing(Around):
        lost = False

        async def commit(self, batch: Batch) -> BatchResult:
            await recovered.wait()  # It would load what has just been started.
            result: BatchResult = await self._inner.commit(batch)
            if not self.lost and any(change.guard is None for change in batch.changes):
                self.lost = True
                raise error("the connection broke")
            return result

    return build.with_parts(supervisor=Recovering).with_store(Losing)


def _with_decisions(build: Build, change: Callable[[failure_pb2.RetryDecision, AttemptRunner], None]) -> Build:
    """Change each decision about what follows a failed attempt."""

    class Deciding(Engine):
        def __init__(self, **parts: Any) -> None:
            services = parts["services"]

            def decide(*args: Any, **options: Any) -> failure_pb2.RetryDecision:
                decision: failure_pb2.RetryDecision = services.decide(*args, **options)
                change(decision, services.attempts)
                return decision

            super().__init__(**parts | {"services": replace(services, decide=decide)})

    return build.with_parts(engine=Deciding)


def slot_kept_in_backoff(build: Build) -> Build:
    """A step in back-off keeps the slot that its attempt had."""

    def keep(decision: failure_pb2.RetryDecision, attempts: AttemptRunner) -> None:
        if decision.action == failure_pb2.RETRY_ACTION_RETRY:
            attempts.task_slots.free -= 1

    return _with_decisions(build, keep)


def no_reason_for_retry(build: Build) -> Build:
    """A failed attempt does not say why the next one comes."""
    return _with_decisions(build, lambda decision, _attempts: decision.ClearField("reason"))


def nothing_leaves_memory(build: Build) -> Build:
    """A workflow that waits stays in memory forever."""

    class Hoarding(Engine):
        def evict(self, *, at_once: bool = False) -> int:
            return 0

    return build.with_parts(engine=Hoarding)


def attempt_before_its_time(build: Build) -> Build:
    """A retry does not wait for the time that its decision names."""

    class Impatient(Execution):
        def want(self, step_key: str) -> None:
            record = self.history.open.get(step_key)
            if record is not None:
                record.next_attempt_time = None
            super().want(step_key)

    return build.with_parts(engine=functools.partial(Engine, new_execution=Impatient))


def always_serving(build: Build) -> Build:
    """Health says SERVING, whatever happens."""

    class Rosy(HealthMonitor):
        def __init__(self, clock: Any, settings: Any, inputs: Callable[[], HealthInputs]) -> None:
            super().__init__(clock, settings, lambda: _rosy(inputs()))

        def probe(self, loop_lag: float = 0.0) -> None:
            super().probe()

    return build.with_parts(health=Rosy)


def _rosy(inputs: HealthInputs) -> HealthInputs:
    return replace(
        inputs,
        oldest_uncommitted_age=None,
        last_commit_age=0.0,
        last_tick_age=0.0,
        recovered=True,
        draining=False,
        store_failure="",
        store_damage="",
    )


def never_serving_again(build: Build) -> Build:
    """Health that has said NOT_SERVING once never says SERVING again."""

    class Sulking(HealthMonitor):
        def __init__(self, clock: Any, settings: Any, signals: Callable[[], HealthInputs]) -> None:
            self.sulks = False
            super().__init__(
                clock, settings, lambda: replace(signals(), recovered=signals().recovered and not self.sulks)
            )

        def probe(self, loop_lag: float = 0.0) -> None:
            serving = self.ready.ok
            super().probe(loop_lag)
            self.sulks = self.sulks or (serving and not self.ready.ok)

    return build.with_parts(health=Sulking)


def troubled(build: Build) -> Build:
    """A disturbance: no tick of the supervisor, and no commit, while a file of that name is in the directory."""

    class Ticking(Supervisor):
        def tick(self) -> None:
            if not NO_TICK.exists():
                super().tick()

    class Away(Around):
        async def commit(self, batch: Batch) -> BatchResult:
            _fail_if_asked()
            result: BatchResult = await self._inner.commit(batch)
            return result

        async def beat(self, *args: Any, **options: Any) -> None:
            _fail_if_asked()
            await self._inner.beat(*args, **options)

    return build.with_parts(supervisor=Ticking).with_store(Away)


def _fail_if_asked() -> None:
    if NO_COMMIT.exists():
        raise StoreUnavailable("the disk is away")


def commit_not_synced(build: Build) -> Build:
    """The disk is never asked to sync what was committed."""
    return _change_pragma(build, "synchronous", "FULL", "OFF")


def commit_synced_late(build: Build) -> Build:
    """The disk is asked to sync only when the log is copied into the file."""
    return _change_pragma(build, "synchronous", "FULL", "NORMAL")


def frequent_checkpoints(build: Build) -> Build:
    """A disturbance: the log is copied into the file, and starts again, every few commits."""
    return _change_pragma(build, "wal_autocheckpoint", "4000", "16")


def _change_pragma(build: Build, name: str, value: str, other: str) -> Build:
    changed = tuple(each.replace(f"{name} = {value}", f"{name} = {other}") for each in WRITER_PRAGMAS)
    assert changed != WRITER_PRAGMAS
    return replace(build, sqlite=functools.partial(build.sqlite, pragmas=changed))


#: A file in the server's own directory with the offset of its wall clock in seconds: eight bytes, a float.
CLOCK: Final = Path("clock")
_OFF: Final = struct.Struct("d")


def set_clock(directory: Path, off: float) -> None:
    """Set the wall clock of a server that has the disturbance `jumping_clock`."""
    descriptor = os.open(directory / CLOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, _OFF.pack(off), 0)
    finally:
        os.close(descriptor)


def jumping_clock(build: Build) -> Build:
    """A disturbance: a wall clock that the test sets while the server runs."""
    with CLOCK.open("rb") as file:
        off = mmap.mmap(file.fileno(), _OFF.size, prot=mmap.PROT_READ)
    wall = time.time
    jumping = functools.partial(SystemClock, wall=lambda: wall() + float(_OFF.unpack_from(off)[0]))
    return build.with_parts(clock=jumping)


FAULTS: Final[dict[str, Callable[[Build], Build]]] = {
    fault.__name__: fault
    for fault in (
        reply_before_commit,
        slow_commits,
        no_generation_check,
        two_engines,
        attempt_without_record,
        dropped_frame,
        repeated_frame,
        timer_lost_on_recovery,
        result_run_again,
        lost_answer_taken_for_failure,
        lost_answer,
        commit_not_synced,
        commit_synced_late,
        frequent_checkpoints,
        jumping_clock,
        signal_before_commit,
        result_before_commit,
        frame_before_commit,
        slot_kept_in_backoff,
        nothing_leaves_memory,
        attempt_before_its_time,
        no_reason_for_retry,
        always_serving,
        never_serving_again,
        troubled,
    )
}
