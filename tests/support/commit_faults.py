"""Faults and disturbances of commits: what leaves before its commit, is not synced, or has its answer lost."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mendflow_server.engine.engine import Engine
from mendflow_server.engine.requests import StartResult
from mendflow_server.engine.watch_hub import WatchHub
from mendflow_server.store.committer import Committer
from mendflow_server.store.errors import CommitUnknown, StoreError, StoreUnavailable
from mendflow_server.store.sqlite.connection import WRITER_PRAGMAS
from mendflow_server.supervisor.supervisor import Supervisor
from tests.support.build import Around

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow.v1 import event_pb2
    from mendflow_server.execution.start_command import StartCommand
    from mendflow_server.store.records import Batch, BatchResult, Change
    from tests.support.build import Build

#: How long a slow commit takes, in seconds: long enough for a reply to leave before it.
SLOW = 0.3


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
