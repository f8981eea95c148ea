"""A server with a fault: the real one, in which one promise's mechanism is taken out.

Each fault is what the checker is there for, so each must be reported by its promise's name. This is a composition
root for tests: nothing in the shipped server can switch it on. Beside the faults are disturbances, which are like
them but hurt no promise: the real mechanism is there.
"""

from __future__ import annotations

import asyncio
import functools
import mmap
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from unittest import mock

from mendflow.v1 import failure_pb2
from mendflow_server import app
from mendflow_server.attempts.attempts import Attempts, Listener
from mendflow_server.engine import memory
from mendflow_server.engine.engine import Engine
from mendflow_server.engine.requests import Begun, Ending
from mendflow_server.engine.watch_hub import WatchHub
from mendflow_server.execution import stepping
from mendflow_server.execution.held import Held
from mendflow_server.execution.stepping import Stepping
from mendflow_server.failures.retry import decide
from mendflow_server.health import monitor as health
from mendflow_server.health.monitor import HealthMonitor
from mendflow_server.history.state import CallRecord, History
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.store.committer import Committer
from mendflow_server.store.interface import CommitUnknown, StoreError, StoreUnavailable
from mendflow_server.store.sqlite import connection
from mendflow_server.store.sqlite.file_lock import FileLock
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.store import SqliteStore
from mendflow_server.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import ExitStack

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1 import event_pb2
    from mendflow.v1.workflow_service_pb2 import WatchWorkflowResponse
    from mendflow_server.attempts.attempts import Order
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Batch, BatchResult

#: How long a commit takes that is slow, in seconds: long enough for a reply to get out before it.
SLOW = 0.3
#: While these are in the server's directory, `troubled` makes trouble.
NO_TICK, NO_COMMIT = Path("no-tick"), Path("no-commit")


def _put_in(stack: ExitStack, owner: Any, name: str, other: Any) -> None:
    stack.enter_context(mock.patch.object(owner, name, other))


def reply_before_commit(stack: ExitStack) -> None:
    """A start is acknowledged while its commit is on its way."""
    start = Engine.start

    def hasty(self: Engine, command: Any) -> Any:
        future = start(self, command)
        if not future.done():
            future.set_result(Begun(self._by_id[command.workflow_id].row, started=True))
        return future

    _put_in(stack, Engine, "start", hasty)
    slow_commits(stack)


def slow_commits(stack: ExitStack) -> None:
    """A disturbance: the disk takes its time."""
    commit = Committer._commit  # noqa: SLF001 - the mechanism itself

    async def slow(self: Committer, batch: Batch) -> BatchResult:
        await asyncio.sleep(SLOW)
        return await commit(self, batch)

    _put_in(stack, Committer, "_commit", slow)


def signal_before_commit(stack: ExitStack) -> None:
    """A signal is acknowledged while its commit is on its way."""
    signal = Engine.signal
    sending: set[asyncio.Task[bool]] = set()

    async def hasty(self: Engine, workflow_id: str, **options: Any) -> bool:
        task = asyncio.get_running_loop().create_task(signal(self, workflow_id, **options))
        sending.add(task)
        task.add_done_callback(sending.discard)
        return False

    _put_in(stack, Engine, "signal", hasty)
    slow_commits(stack)


def result_before_commit(stack: ExitStack) -> None:
    """Whoever waits for a workflow's end is told of it while its commit is on its way."""

    def tell(held: Held, kernel: Engine) -> None:
        final = held.history.final
        if final is not None:
            for future in kernel._end_waits.pop(held.row.key, ()):  # noqa: SLF001 - the mechanism itself
                future.set_result(Ending(held._next_row(), None, final))  # noqa: SLF001 - the mechanism itself

    _as_it_is_sent(stack, tell)


def frame_before_commit(stack: ExitStack) -> None:
    """Watchers are sent what is on its way to the disk."""
    publish = WatchHub.publish
    published: dict[int, int] = {}

    def once(self: WatchHub, key: int, events: list[event_pb2.Event], *, ended: bool) -> None:
        new = [event for event in events if event.sequence > published.get(key, 0)]
        if new:
            published[key] = new[-1].sequence
        publish(self, key, new, ended=ended)

    def tell(held: Held, kernel: Engine) -> None:
        if held.row.key:
            kernel.watchers.publish(held.row.key, held._sent.events, ended=False)  # noqa: SLF001 - the mechanism itself

    _put_in(stack, WatchHub, "publish", once)
    _as_it_is_sent(stack, tell)


def _as_it_is_sent(stack: ExitStack, tell: Callable[[Held, Engine], None]) -> None:
    """Do this whenever a workflow's change is on its way to the disk, which takes its time."""
    flush = Held.flush

    def hasty(self: Held) -> None:
        before = self.in_commit
        flush(self)
        if self.in_commit and not before:
            tell(self, cast("Engine", self.kernel))

    _put_in(stack, Held, "flush", hasty)
    slow_commits(stack)


def no_generation_check(stack: ExitStack) -> None:
    """Two engines on one store, and a row is written whoever drives it."""
    guard = "key = column10 AND generation = column11 AND last_sequence = column12"
    blind = {
        "update_workflow": QUERIES["update_workflow"].replace(guard, "key = column10"),
        "insert_event": QUERIES["insert_event"].replace("INSERT INTO", "INSERT OR REPLACE INTO"),
    }
    assert all(QUERIES[name] != query for name, query in blind.items())
    stack.enter_context(mock.patch.dict(QUERIES, blind))
    two_engines(stack)


def two_engines(stack: ExitStack) -> None:
    """A disturbance: the file lock is off; a second server takes over while the first one still runs a step."""
    _put_in(stack, FileLock, "take", lambda _self: None)

    async def serve(settings: Settings, definitions: Mapping[str, Workflow[Any, Any]]) -> int:
        async with app.App(settings, definitions) as first:
            while not first.engine.running:
                await asyncio.sleep(0.005)
            await first.grpc.stop(0)  # Its clients find the second; its engine goes on.
            async with app.App(settings, definitions):
                await asyncio.Event().wait()
        return 0

    _put_in(stack, app, "serve", serve)


def attempt_without_record(stack: ExitStack) -> None:
    """Each attempt runs once more, off the record."""
    launch = Attempts.launch

    def twice(self: Attempts, order: Any, listener: Listener, context: Any) -> Any:
        launch(self, order._replace(number=order.number + 100), Listener(), context.copy())
        return launch(self, order, listener, context)

    _put_in(stack, Attempts, "launch", twice)


def dropped_frame(stack: ExitStack) -> None:
    """Each watch loses its first frame with events."""
    _change_frames(stack, 0)


def repeated_frame(stack: ExitStack) -> None:
    """Each watch sends its first frame with events twice."""
    _change_frames(stack, 2)


def _change_frames(stack: ExitStack, times: int) -> None:
    frames = WatchHub._frames  # noqa: SLF001 - the mechanism itself

    async def changed(self: WatchHub, *args: Any) -> AsyncIterator[WatchWorkflowResponse]:
        first = True
        async for frame in frames(self, *args):
            for _ in range(times if first and frame.events else 1):
                yield frame
            first = first and not frame.events

    _put_in(stack, WatchHub, "_frames", changed)


def timer_lost_on_recovery(stack: ExitStack) -> None:
    """What another process drove before gets no timer."""
    set_timer = Held._set_timer  # noqa: SLF001 - the mechanism itself

    def forgetful(self: Held) -> None:
        if self.row.generation == 1:
            set_timer(self)

    _put_in(stack, Held, "_set_timer", forgetful)


def result_run_again(stack: ExitStack) -> None:
    """What is read out of the store has no steps.

    Their results alone are not enough: code that asks anew for one step, while another is recorded, is paused.
    """

    class Forgetful(History):
        @staticmethod
        def of(events: Any) -> History:
            history = History.of(events)
            for key, record in list(history.calls.items()):
                if record.kind == "step":
                    del history.calls[key]
                    history.open.pop(key, None)
            return history

    _put_in(stack, memory, "History", Forgetful)


def lost_answer_taken_for_failure(stack: ExitStack) -> None:
    """A start is committed, the answer of the COMMIT is lost, and the store says that nothing was changed."""
    _lose_answers(stack, StoreUnavailable)


def lost_answer(stack: ExitStack) -> None:
    """A disturbance: the same, and the store says that it does not know."""
    _lose_answers(stack, CommitUnknown)


def _lose_answers(stack: ExitStack, error: type[StoreError]) -> None:
    commit, recover = SqliteStore.commit, Supervisor.recover
    recovered = asyncio.Event()
    lost = False

    async def recovering(self: Supervisor) -> None:
        await recover(self)
        recovered.set()

    async def losing(self: SqliteStore, batch: Batch) -> BatchResult:
        nonlocal lost
        await recovered.wait()  # It would take over what has just been started.
        result = await commit(self, batch)
        if not lost and any(change.guard is None for change in batch.changes):
            lost = True
            raise error("the connection broke")
        return result

    _put_in(stack, SqliteStore, "commit", losing)
    _put_in(stack, Supervisor, "recover", recovering)


def slot_kept_in_backoff(stack: ExitStack) -> None:
    """A step that backs off keeps the slot that its attempt had."""
    fail = Stepping._fail_attempt  # noqa: SLF001 - the mechanism itself

    def keeping(self: Stepping, event: event_pb2.Event, record: Any, report: Any, order: Order) -> None:
        fail(self, event, record, report, order)
        if event.attempt_failed.decision.action == failure_pb2.RETRY_ACTION_RETRY:
            self.kernel.attempts.slots_for(order.step).free -= 1

    _put_in(stack, Stepping, "_fail_attempt", keeping)


def nothing_leaves_memory(stack: ExitStack) -> None:
    """What waits stays in memory for ever."""
    _put_in(stack, memory.Memory, "evict", lambda _self: 0)


def attempt_before_its_time(stack: ExitStack) -> None:
    """A retry does not wait for the time that its decision names."""
    _put_in(stack, CallRecord, "next_attempt_time", property(lambda _self: None, lambda _self, _time: None))


def no_reason_for_retry(stack: ExitStack) -> None:
    """A failed attempt does not say why the next one comes."""

    def silent(*args: Any, **options: Any) -> failure_pb2.RetryDecision:
        decision = decide(*args, **options)
        decision.ClearField("reason")
        return decision

    _put_in(stack, stepping, "decide", silent)


def always_serving(stack: ExitStack) -> None:
    """Health says SERVING, whatever is the matter."""
    _put_in(stack, health, "judge", lambda *_: (health.HealthStatus(ok=True), health.HealthStatus(ok=True)))


def never_serving_again(stack: ExitStack) -> None:
    """Health that has once said NOT_SERVING says it for ever."""
    probe = HealthMonitor.probe

    def sulking(self: HealthMonitor, loop_lag: float = 0.0) -> None:
        serving = self.ready.ok
        probe(self, loop_lag)
        if serving and not self.ready.ok:
            self._good = -1_000_000

    _put_in(stack, HealthMonitor, "probe", sulking)


def troubled(stack: ExitStack) -> None:
    """A disturbance: no tick of the supervisor, and no commit, while a file of that name is in the directory."""
    tick, commit, beat = Supervisor.tick, SqliteStore.commit, SqliteStore.beat

    def ticking(self: Supervisor) -> None:
        if not NO_TICK.exists():
            tick(self)

    async def committing(self: SqliteStore, batch: Batch) -> BatchResult:
        _fail_if_told()
        return await commit(self, batch)

    async def beating(self: SqliteStore, *args: Any, **options: Any) -> None:
        _fail_if_told()
        await beat(self, *args, **options)

    _put_in(stack, Supervisor, "tick", ticking)
    _put_in(stack, SqliteStore, "commit", committing)
    _put_in(stack, SqliteStore, "beat", beating)


def _fail_if_told() -> None:
    if NO_COMMIT.exists():
        raise StoreUnavailable("the disk is away")


def commit_not_synced(stack: ExitStack) -> None:
    """The disk is never asked whether it has what was committed."""
    _change_pragma(stack, "synchronous", "FULL", "OFF")


def commit_synced_late(stack: ExitStack) -> None:
    """The disk is asked only when the log goes into the file."""
    _change_pragma(stack, "synchronous", "FULL", "NORMAL")


def frequent_checkpoints(stack: ExitStack) -> None:
    """A disturbance: the log goes into the file, and is begun anew, every few commits."""
    _change_pragma(stack, "wal_autocheckpoint", "4000", "16")


def _change_pragma(stack: ExitStack, name: str, value: str, other: str) -> None:
    pragmas = connection._WRITER  # noqa: SLF001 - the mechanism itself
    changed = tuple(each.replace(f"{name} = {value}", f"{name} = {other}") for each in pragmas)
    assert changed != pragmas
    _put_in(stack, connection, "_WRITER", changed)


#: A file in the server's own directory that holds how far its wall clock is off, in seconds: eight bytes, a float.
CLOCK: Final = Path("clock")
_OFF: Final = struct.Struct("d")


def set_clock(directory: Path, off: float) -> None:
    """Set the wall clock of a server that has a jumping one."""
    descriptor = os.open(directory / CLOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, _OFF.pack(off), 0)
    finally:
        os.close(descriptor)


def jumping_clock(stack: ExitStack) -> None:
    """A disturbance: a wall clock that the test sets while the server runs."""
    with CLOCK.open("rb") as file:
        off = stack.enter_context(mmap.mmap(file.fileno(), _OFF.size, prot=mmap.PROT_READ))
    wall = time.time
    jumping = functools.partial(SystemClock, wall=lambda: wall() + float(_OFF.unpack_from(off)[0]))
    _put_in(stack, app, "SystemClock", jumping)


FAULTS: dict[str, Callable[[ExitStack], None]] = {
    put_in.__name__: put_in
    for put_in in (
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
