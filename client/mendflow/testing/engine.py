"""The real engine in the test's process: one life of it, from its start to its stop or crash. It has no ports."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

from mendflow.client.error_mapping import error_of_status
from mendflow.testing.fakes import stand_in
from mendflow.v1 import event_pb2
from mendflow_server.api.interceptors import as_refusal
from mendflow_server.api.operator_service import OperatorService
from mendflow_server.api.status_codes import to_status
from mendflow_server.api.workflow_service import WorkflowService
from mendflow_server.app import App, Parts
from mendflow_server.attempts.attempt_runner import AttemptRunner
from mendflow_server.settings import load_settings
from mendflow_server.store.factory import open_store
from mendflow_server.telemetry import trace_from_metadata
from mendflow_server.telemetry.observer import Observer

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mendflow.authoring.workflow import Workflow
    from mendflow.testing.clock import TestClock
    from mendflow.testing.fakes import Fakes
    from mendflow.testing.points import CrashPoint
    from mendflow_server.attempts.model import AttemptRequest
    from mendflow_server.attempts.running_attempt import AttemptListener, RunningAttempt
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Batch, BatchResult

__all__ = ["Life", "settings_in"]

#: Later than any time that a workflow waits for, in microseconds.
_END_OF_TIME: Final = 1 << 62
#: Longer than any test, in seconds.
_LONG: Final = 31_536_000.0
#: An engine that rests for so many turns of the loop rests.
_TURNS: Final = 3
#: How often a wait looks, in seconds.
LOOK: Final = 0.001
#: How long the end of a life waits for async steps that it cancels, in seconds.
PATIENCE: Final = 2.0


def settings_in(directory: Path, given: Mapping[str, Any]) -> Settings:
    """Return the settings of a test's engine. Raise `mendflow_server.settings.SettingsError`."""
    # The addresses are not used, and those of the environment may be refused.
    own = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
    # A skipped month must not delete what the test still looks at.
    values = {"retention": "forever", **given}
    return load_settings(store=f"sqlite:///{directory / 'mendflow.db'}", **own, **values)


class _Caller:
    """The context of a call that came over no network."""

    def peer(self) -> str:
        return "test"

    def invocation_metadata(self) -> tuple[()]:
        return ()


class _FakingAttempts:
    """The runner of attempts, which runs the fake of a step if it has one."""

    def __init__(self, fakes: Fakes, **parts: Any) -> None:
        self._inner = AttemptRunner(**parts)
        self._fakes = fakes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def launch(
        self,
        request: AttemptRequest,
        listener: AttemptListener,
        context: contextvars.Context,
        on_record: tuple[int, int],
    ) -> RunningAttempt:
        """Run an attempt; see `AttemptRunner.launch`."""
        fake = self._fakes.of(request.step)
        if fake is not None:
            request = request._replace(step=stand_in(request.step, fake))
        return self._inner.launch(request, listener, context, on_record)


class _CrashingStore:
    """A store around another one. At the crash it commits nothing more, and no commit returns."""

    def __init__(self, inner: Store, points: list[CrashPoint], crashed: asyncio.Future[None]) -> None:
        self._inner = inner
        self._points = points
        self._crashed = crashed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit a batch; see `Store.commit`."""
        if self._crashed.done():
            await asyncio.Event().wait()
        reached = self._reached_by(batch)
        if not reached:
            return await self._inner.commit(batch)
        for point in reached:
            self._points.remove(point)
        if not any(point.before for point in reached):
            await self._inner.commit(batch)
        if not self._crashed.done():
            self._crashed.set_result(None)
        await asyncio.Event().wait()
        raise AssertionError

    def _reached_by(self, batch: Batch) -> list[CrashPoint]:
        if not self._points:
            return []
        events = [event_pb2.Event.FromString(data) for change in batch.changes for _, data in change.events]
        return [point for point in self._points if point.reached(events)]


class Life:
    """One life of the engine: a process, as far as the store can see."""

    def __init__(
        self,
        settings: Settings,
        definitions: Mapping[str, Workflow[Any, Any]],
        clock: TestClock,
        fakes: Fakes,
        points: list[CrashPoint],
    ) -> None:
        self._clock = clock
        #: Is resolved when this life crashes.
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def new_store(url: str, **options: Any) -> Any:
            return _CrashingStore(open_store(url, **options), points, self.crashed)

        attempts: Any = functools.partial(_FakingAttempts, fakes)
        parts = Parts(
            clock=lambda: clock,
            open_store=new_store,
            attempts=attempts,
            observer=lambda _spans: Observer(),  # The history has it all, and the log would hide a test's own output.
            listens=False,
        )
        self._app = App(settings, definitions, parts=parts)
        self._started = False
        #: The calls of the test that have not returned.
        self._calls = 0

    async def start(self) -> None:
        """Start the engine on its store, and wait until it has recovered what an earlier life left."""
        app = self._app
        await app.__aenter__()
        self._started = True
        self._service = WorkflowService(
            app.engine, app.settings, trace=trace_from_metadata, health=lambda: app.health.ready, version="test"
        )
        self._operator = OperatorService(app.engine, app.settings)
        while not app.supervisor.recovered:  # noqa: ASYNC110 - recovery has no end that can be awaited
            await asyncio.sleep(LOOK)

    async def stop(self) -> None:
        """Stop the engine as at a crash, without another commit."""
        if not self.crashed.done():
            self.crashed.set_result(None)
        if not self._started:
            return
        running = [each.task for each in self._app.services.attempts.running if each.task is not None]
        await self._app.__aexit__()
        if running:
            # Their cancellation takes a turn of the loop, unless the code of a step refuses it.
            await asyncio.wait(running, timeout=PATIENCE)

    async def call(self, verb: str, request: Any) -> Any:
        """Call an rpc's handler, without a network. Raise the error that the client would raise."""
        service: Any = self._service if hasattr(self._service, verb) else self._operator
        self._calls += 1
        try:
            return await getattr(service, verb)(request, _Caller())
        except Exception as error:
            raise error_of_status(to_status(as_refusal(error, verb)), "the test") from error
        finally:
            self._calls -= 1

    async def end_of(self, workflow_id: str) -> None:
        """Wait until a workflow has ended."""
        app = self._app
        row = await app.engine.find(workflow_id)
        await app.engine.wait_end(row, wait=_LONG)

    @property
    def _at_rest(self) -> bool:
        app = self._app
        return not self._calls and app.engine.resting and app.supervisor.resting and not self.crashed.done()

    async def rests(self) -> bool:
        """Return whether nothing follows until time passes or the test acts."""
        for _ in range(_TURNS):
            if not self._at_rest:
                return False
            await asyncio.sleep(0)
        return self._at_rest

    def running(self) -> Iterator[str]:
        """Yield the workflow, step and number of each attempt whose code runs."""
        for attempt in self._app.services.attempts.running:
            request = attempt.request
            yield f"{request.workflow_id}: {request.step_key} attempt {request.number}"

    async def next_time(self) -> float | None:
        """Return when something is due next, in seconds since the epoch; None if nothing is."""
        app = self._app
        wall, monotonic = app.engine.next_times
        guard = app.supervisor.guard_due
        times = [] if wall is None else [wall]
        times += [self._clock.wall_time_of(each) for each in (monotonic, guard) if each is not None]
        stored = await app.store.due(_END_OF_TIME, limit=1)
        # A workflow in memory has a timer for this time, without the rounding to microseconds.
        times += [moment / 1e6 for moment, key in stored if not app.engine.has(key)]
        return min(times, default=None)

    def pass_time(self, moment: float) -> None:
        """Move the clock to ``moment``, evict what would not stay in memory so long, and run what is due."""
        app = self._app
        if moment - self._clock.time() > app.settings.evict_after:
            app.engine.evict(at_once=True)
        self._clock.move_to(moment)
        app.supervisor.tick()
