"""The environment of one test, for tests with asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from mendflow.authoring.step import Step
from mendflow.authoring.workflow import Workflow
from mendflow.client.checks import checked, checked_labels
from mendflow.client.client import NOTHING, encode
from mendflow.errors import DefinitionError
from mendflow.testing.clock import TestClock
from mendflow.testing.fakes import Fake, Fakes
from mendflow.testing.handle import AsyncHandle, StillOpen, stopped
from mendflow.testing.points import CrashPoint
from mendflow.v1 import event_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from mendflow.testing.engine import Life

__all__ = ["AsyncEnvironment"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")
T = TypeVar("T")

#: How long an environment rests with nothing due before a wait for an end fails, in real seconds. Another task or
#: thread of the test may act meanwhile.
STUCK: Final = 0.5
#: How long `AsyncEnvironment.advance` waits for running attempts before it moves the clock, in real seconds.
GRACE: Final = 0.2
#: How often a wait looks, in real seconds.
LOOK: Final = 0.001


class AsyncEnvironment:
    """The engine of one test, on the test's own event loop. Make it with `WorkflowTest`."""

    def __init__(
        self,
        workflows: Sequence[Workflow[Any, Any]],
        directory: Path,
        *,
        start_time: datetime | None,
        settings: Mapping[str, Any],
    ) -> None:
        self._definitions = {workflow.name: workflow for workflow in workflows}
        self._engine = _engine()
        self._settings = self._engine.settings_in(directory, settings)
        self._clock = TestClock(None if start_time is None else start_time.timestamp())
        self._fakes = Fakes(_step_names(workflows))
        #: The points at which the engine will crash.
        self._points: list[CrashPoint] = []
        self._numbers: dict[str, itertools.count[int]] = {}
        self._moving = asyncio.Lock()
        self._restarting: asyncio.Task[None] | None = None
        self._life = self._new_life()
        self._closed = False
        #: How often the engine has crashed.
        self.crashes = 0

    def _new_life(self) -> Life:
        life: Life = self._engine.Life(self._settings, self._definitions, self._clock, self._fakes, self._points)
        return life

    async def open(self) -> None:
        """Start the engine."""
        await self._life.start()
        self._watch_for_crash()

    async def close(self, *, check: bool = True) -> None:
        """Stop the engine. With ``check``, raise AssertionError if a crash point was not reached."""
        try:
            await self._current()  # A restart in progress must not be left half done.
        finally:
            if self._restarting is not None:
                self._restarting.cancel()
                await asyncio.gather(self._restarting, return_exceptions=True)
            self._closed = True
            await self._life.stop()
        if check and self._points:
            points = ", ".join(str(point) for point in self._points)
            msg = f"the engine did not reach the crash point {points}; `history.points` lists the points of a workflow"
            raise AssertionError(msg)

    # What a test does.

    @overload
    async def start(
        self,
        workflow: Workflow[None, R],
        input: None = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> AsyncHandle[R]: ...
    @overload
    async def start(
        self, workflow: Workflow[I, R], input: I, *, id: str | None = ..., labels: Mapping[str, str] | None = ...
    ) -> AsyncHandle[R]: ...
    async def start(
        self,
        workflow: Workflow[Any, R],
        input: Any = NOTHING,
        *,
        id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncHandle[R]:
        """Start a workflow and return its handle once the start is committed. Time stands still.

        Raise what `mendflow.Client.start` raises, such as `mendflow.errors.PayloadError` for a wrong input. Raise
        TypeError for what is no workflow function, such as a name.
        """
        given: object = workflow
        if not isinstance(given, Workflow):
            msg = f"start() takes a workflow function, not {given!r}; pass the function that @workflow made"
            raise TypeError(msg)
        if self._definitions.get(workflow.name) is not workflow:
            msg = f"workflow {workflow.name} is not served in this test; pass it to WorkflowTest or mendflow_env"
            raise DefinitionError(msg)
        numbers = self._numbers.setdefault(workflow.name, itertools.count(1))
        request = workflow_service_pb2.StartWorkflowRequest(
            workflow_id=f"{workflow.name}-{next(numbers)}" if id is None else checked("workflow_id", id),
            workflow_type=workflow.name,
            labels=checked_labels(labels),
        )
        if input is not NOTHING:
            payload = encode(input) if workflow.input_type is None else workflow.input_type.encode(input)
            if payload.WhichOneof("kind"):
                request.input.CopyFrom(payload)
        await self.call("StartWorkflow", request)
        return AsyncHandle(self, request.workflow_id, workflow)

    @overload
    async def run(self, workflow: Workflow[None, R], input: None = ..., *, id: str | None = ...) -> R: ...
    @overload
    async def run(self, workflow: Workflow[I, R], input: I, *, id: str | None = ...) -> R: ...
    async def run(self, workflow: Workflow[Any, R], input: Any = NOTHING, *, id: str | None = None) -> R:
        """Start a workflow and return its result; see `AsyncHandle.result`."""
        return await (await self.start(workflow, input, id=id)).result()

    def fake(self, step: Step[..., Any] | str, outcome: object) -> Fake:
        """Replace a step's code by ``outcome``, from its next attempt on.

        ``step`` is the step or its name. A callable is called with the step's arguments, an exception is raised, and
        a list has an outcome for each attempt. Any other value is the result. Raise `DefinitionError` for an unknown
        name.
        """
        return self._fakes.add(step, outcome)

    def crash_at(self, point: str, *, nth: int = 1, before: bool = False) -> None:
        """Crash the engine when it commits the ``nth`` event at ``point``, and start it again on the same store.

        A point is a kind of event, then the key of a call and the number of an attempt, as far as they matter:
        ``attempt_started:charge:2``, ``timer_fired``. The engine crashes after that commit, before anything follows
        from it, or with ``before`` just before the commit.

        Raise ValueError if the point begins with no kind of event.
        """
        self._points.append(CrashPoint(point, nth=nth, before=before))

    async def crash(self) -> None:
        """Crash the engine now, and start it again on the same store."""
        life = await self._current()
        if not life.crashed.done():
            life.crashed.set_result(None)
        await self._current()

    @property
    def now(self) -> datetime:
        """The test's time, in UTC."""
        return datetime.fromtimestamp(self._clock.time(), UTC)

    async def advance(self, seconds: float | timedelta) -> None:
        """Move the clock, and run all that falls due meanwhile, in order.

        Attempts that run have a moment of real time to end first. The timeouts of those that still run then pass too.
        """
        duration = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        if not 0 <= duration < float("inf"):
            msg = f"advance() takes a number of seconds from 0 up, not {seconds!r}"
            raise ValueError(msg)
        target = self._clock.time() + duration
        while True:
            with contextlib.suppress(StillOpen):
                await self.settle(GRACE)
            async with self._moving:
                due = await self._on_current(lambda life: life.next_time())
                last = due is None or due > target
                (await self._current()).pass_time(target if last or due is None else due)
            if last:
                break
        with contextlib.suppress(StillOpen):
            await self.settle(GRACE)

    async def settle(self, timeout: float = 10.0) -> None:
        """Wait until nothing more happens without more time or another act of the test.

        Raise `StillOpen` after ``timeout`` real seconds, if the code of a step still runs.
        """
        limit = asyncio.get_running_loop().time() + timeout
        while not await (await self._current()).rests():
            if asyncio.get_running_loop().time() > limit:
                msg = f"the engine did not come to rest within {timeout:g} s; {self._what_runs()}"
                raise StillOpen(msg)
            await asyncio.sleep(LOOK)

    # What handles need.

    async def call(self, verb: str, request: Any) -> Any:
        """Call an rpc, again after a crash."""
        return await self._on_current(lambda life: life.call(verb, request))

    async def until_end(self, workflow_id: str, timeout: float, describe: Callable[[], Awaitable[str]]) -> None:
        """Wait for a workflow's end. Skip the time whenever nothing else happens.

        Raise `StillOpen`, with what ``describe`` returns, if nothing can happen any more or after the timeout.
        """
        loop = asyncio.get_running_loop()
        limit = loop.time() + timeout
        idle_since: float | None = None
        ended = loop.create_task(self._on_current(lambda life: life.end_of(workflow_id)))
        try:
            while not ended.done():
                moved = await self._skip()
                idle_since = None if moved is not None else idle_since or loop.time()
                why = ""
                if idle_since is not None and loop.time() - idle_since > STUCK:
                    why = "waits for something that the test does not send, and nothing else is due"
                elif loop.time() > limit:
                    why = f"did not end within {timeout:g} s; {self._what_runs()}"
                if why and not ended.done():
                    raise StillOpen(f"workflow {workflow_id} {why}\n{await describe()}")
                await asyncio.wait([ended], timeout=0 if moved else LOOK)
            await ended
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)

    def problems(self) -> list[str]:
        """Return why fakes could not be used."""
        return self._fakes.problems

    async def events(self, workflow_id: str) -> list[event_pb2.Event]:
        """Return the committed events of a workflow."""
        request = workflow_service_pb2.ListEventsRequest(workflow_id=workflow_id, page_size=1_000)
        events: list[event_pb2.Event] = []
        while True:
            page = await self.call("ListEvents", request)
            events += page.events
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return events

    # Time and crashes.

    async def _skip(self) -> bool | None:
        """Move to the next due time if everything rests. Return whether time moved; None if nothing is due."""
        async with self._moving:
            if not await (await self._current()).rests():
                return False
            due = await self._on_current(lambda life: life.next_time())
            life = await self._current()
            if not await life.rests():
                return False
            if due is None:
                return None
            life.pass_time(due)
            return True

    def _what_runs(self) -> str:
        running = ", ".join(self._life.running())
        hint = "time stands still while the code of a step runs; end it, fake it, or call advance()"
        return f"{running} runs ({hint})" if running else "it is busy"

    async def _current(self) -> Life:
        """Return the life of the engine, after the restart if it has crashed. Raise `MendflowError` after the test."""
        if self._closed:
            raise stopped()
        while self._life.crashed.done() and self._restarting is not None:
            await asyncio.shield(self._restarting)
        return self._life

    async def _on_current(self, work: Callable[[Life], Awaitable[T]]) -> T:
        """Do what a client does: begin again on the next life of the engine if this one crashes."""
        while True:
            life = await self._current()
            doing = asyncio.ensure_future(work(life))
            try:
                either: list[asyncio.Future[Any]] = [doing, life.crashed]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if doing.done() and (not life.crashed.done() or doing.exception() is None):
                    return doing.result()
            finally:
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)

    def _watch_for_crash(self) -> None:
        self._restarting = asyncio.get_running_loop().create_task(self._restart_after_crash(self._life))

    async def _restart_after_crash(self, life: Life) -> None:
        await asyncio.shield(life.crashed)
        self.crashes += 1
        await life.stop()
        following = self._new_life()
        await following.start()
        self._life = following  # Not before: calls wait for a life that has started.
        self._watch_for_crash()


def _engine() -> ModuleType:
    try:
        from mendflow.testing import engine  # noqa: PLC0415 - only a test on the engine needs the server
    except ModuleNotFoundError as error:
        msg = f"WorkflowTest needs the server ({error.name} is missing): pip install 'mendflow[server]'"
        raise ModuleNotFoundError(msg, name=error.name) from None
    return engine


def _step_names(workflows: Sequence[Workflow[Any, Any]]) -> set[str]:
    names = set()
    for workflow in workflows:
        spaces = [workflow.function.__globals__]
        spaces += [vars(each) for each in list(spaces[0].values()) if isinstance(each, ModuleType)]
        names |= {thing.name for space in spaces for thing in list(space.values()) if issubclass(type(thing), Step)}
    return names
