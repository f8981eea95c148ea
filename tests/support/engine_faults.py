"""Faults and disturbances of the engine: two drivers, attempts off the record, and what is forgotten or kept."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from mendflow.v1 import failure_pb2
from mendflow_server.app import App
from mendflow_server.attempts.attempt_runner import AttemptRunner
from mendflow_server.engine.engine import Engine
from mendflow_server.execution.execution import Execution
from mendflow_server.store.postgres.queries import QUERIES as POSTGRES_QUERIES
from mendflow_server.store.sqlite.file_lock import FileLock
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.attempts.model import AttemptRequest, AttemptResult
    from mendflow_server.attempts.running_attempt import RunningAttempt
    from tests.support.build import Build


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


def no_generation_check_on_postgres(build: Build) -> Build:
    """Write a workflow's row and events whichever replica sends them. A test runs several replicas on one database."""
    guard = "AND workflows.generation = given.guard_generation AND workflows.last_sequence = given.guard_last_sequence"
    appended = "WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE\n), labelled"
    replacing = appended.replace("\n", " ON CONFLICT (key, sequence) DO UPDATE SET bytes = excluded.bytes\n")
    for name in ("commit", "commit_beside"):
        query = POSTGRES_QUERIES[name]
        assert guard in query
        assert appended in query
        POSTGRES_QUERIES[name] = query.replace(guard, "").replace(appended, replacing)
    return build


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
            if self.grpc is not None:
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
        def launch(self, request: AttemptRequest, listener: Any, context: Any, on_record: Any) -> RunningAttempt:
            super().launch(request._replace(number=request.number + 100), Deaf(), context.copy(), on_record)
            return super().launch(request, listener, context, on_record)

    return build.with_parts(attempts=Twice)


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
