"""Workflows called by hand: the code runs as on a server, without one, and without waiting.

The run drives the workflow's code with a `FiberDriver`, as the server's runner
does: each call blocks a fiber, and outcomes are delivered one at a time. Steps
run as tasks of the caller's event loop. The clock stands still while a step
runs. When nothing else can happen it moves to the next due time, so that
sleeps, timeouts of signals and backoffs take no time. Nothing is recorded and
nothing is replayed.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import heapq
import inspect
import itertools
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mendflow.authoring.calls import SignalWait, Sleep
from mendflow.authoring.context import RUN, WorkflowInfo
from mendflow.authoring.fiber_driver import FiberDriver
from mendflow.authoring.fibers import not_durable
from mendflow.authoring.hand_steps import HandStep
from mendflow.authoring.handed import HANDED, ByHand
from mendflow.authoring.step import StepCall
from mendflow.codec import ValueType
from mendflow.errors import NotInWorkflow, PayloadError, SignalTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from mendflow.authoring.calls import Call
    from mendflow.authoring.fibers import Fiber
    from mendflow.authoring.hand_steps import Outcome

__all__ = ["call_by_hand"]

_ANY = ValueType[Any].of(Any)


class Definition(Protocol):
    """The part of a workflow that a run needs."""

    name: str
    function: Callable[..., Coroutine[Any, Any, Any]]

    @property
    def input_type(self) -> ValueType[Any] | None:
        """The type of the parameter."""

    @property
    def output_type(self) -> ValueType[Any]:
        """The type of the result."""

    @property
    def signals(self) -> Mapping[str, ValueType[Any]]:
        """The types of the declared signals."""


async def call_by_hand(definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a workflow to its end and return its result. Called by another workflow, it is a part of that one."""
    if RUN.get() is not None:
        return await definition.function(*args, **kwargs)
    input_type = definition.input_type
    if input_type is not None:
        bound = inspect.signature(definition.function).bind(*args, **kwargs)
        args, kwargs = tuple(input_type.decode(input_type.encode(value)) for value in bound.arguments.values()), {}
    hand = HANDED.get() or ByHand({}, None, {})
    value = await _Run(definition, definition.function(*args, **kwargs), hand).to_end()
    return definition.output_type.decode(definition.output_type.encode(value))


class _Wait:
    """A call that blocks a fiber."""

    __slots__ = ("call", "fiber", "step")

    def __init__(self, fiber: Fiber, call: Call[Any]) -> None:
        self.fiber = fiber
        self.call = call
        #: None for other calls than that of a step.
        self.step: HandStep | None = None


class _Run:
    """One workflow called by hand (`mendflow.authoring.context.CurrentRun`)."""

    def __init__(self, definition: Definition, code: Coroutine[Any, Any, Any], hand: ByHand) -> None:
        self.driving = False
        self.time = time.time() if hand.start is None else hand.start
        self._start_time = datetime.fromtimestamp(self.time, UTC)
        self._definition = definition
        self._hand = hand
        #: The blocked calls, by key.
        self._waits: dict[str, _Wait] = {}
        #: The waits for each signal, oldest first.
        self._signal_waits: dict[str, list[str]] = {}
        #: The outcomes to deliver, oldest first.
        self._ready: collections.deque[tuple[str, Any, BaseException | None]] = collections.deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._to_start: collections.deque[HandStep] = collections.deque()
        self._running: dict[asyncio.Task[Outcome], HandStep] = {}
        #: The context of steps.
        self._outside = contextvars.copy_context()
        inside = contextvars.copy_context()
        inside.run(RUN.set, self)
        self._fibers = FiberDriver(code, inside, self._block_on, self._cancel_call)

    # What authoring functions call (`CurrentRun`).

    @property
    def replaying(self) -> bool:
        """Whether the code repeats what is recorded: never."""
        return False

    @property
    def info(self) -> WorkflowInfo:
        """A workflow with the id "by-hand", which started when it was called."""
        return WorkflowInfo("by-hand", self._definition.name, self._start_time, {})

    def call_made(self, call: object) -> None:
        """Register a call that the code must await."""
        self._fibers.call_made(call)

    def forgotten(self, what: str) -> None:
        """Register something that the code dropped."""
        self._fibers.forgotten(what)

    def record_value(self, name: str, make: Callable[[], str]) -> str:
        """Return a new value, since nothing is recorded."""
        del name
        return make()

    def version(self, name: str) -> bool:
        """Return what the test handed in for this name, or True."""
        return self._hand.versions.get(name, True)

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Do nothing: there are no watchers."""

    # The run.

    async def to_end(self) -> Any:
        """Run the code to its end; return what it returned, or raise what it raised."""
        fibers = self._fibers
        try:
            self._drive(fibers.begin)
            while not fibers.done:
                await self._advance()
        finally:
            self._close()
            if self._running:
                await asyncio.wait(self._running)
        if fibers.error is not None:
            raise fibers.error
        return fibers.value

    def _drive(self, run: Callable[..., None], *arguments: Any) -> None:
        """Run the code by one call of its fibers."""
        self.driving = True
        try:
            self._fibers.context.run(run, *arguments)
        finally:
            self.driving = False

    async def _advance(self) -> None:
        """Do the next thing: deliver an outcome or a signal, start an attempt, wait for one, or move the clock."""
        if self._ready:
            key, value, error = self._ready.popleft()
            waiting = self._waits.pop(key, None)
            if waiting is not None:
                if waiting.fiber.cancelled:
                    waiting.fiber.cancelled = False
                    value, error = None, asyncio.CancelledError()
                self._drive(self._fibers.resume, waiting.fiber, value, error)
        elif self._to_start:
            self._start_attempt(self._to_start.popleft())
        elif self._match_signals():
            pass
        elif self._running:
            await self._wait_for_attempts()
        elif self._timers:
            due, _, call = heapq.heappop(self._timers)
            self.time = max(self.time, due)
            call()
        else:
            raise self._stuck()

    def _close(self) -> None:
        """Cancel the steps that run, and drop the code that has not ended."""
        for task in self._running:
            task.cancel()
        self._fibers.close()

    def _stuck(self) -> NotInWorkflow:
        names = [each.call.name for each in self._waits.values() if isinstance(each.call, SignalWait)]
        name = names[0] if names else ""
        return NotInWorkflow(
            f"{self._definition.name} waits for signal {name!r} and nothing sends it; hand it in: "
            f"`with mendflow.testing.by_hand(signals={{{name!r}: [...]}}):`"
        )

    # Calls.

    def _block_on(self, fiber: Fiber, call: Call[Any]) -> BaseException | None:
        """Block the fiber on the call that it awaits, or return the error to raise there."""
        if isinstance(call, StepCall):
            step = call.step
            payload = step.arguments.encode(call.args, call.kwargs)
            key = self._block(fiber, step.key or step.name, call)
            started = self._waits[key].step = HandStep(key, step, payload)
            self._to_start.append(started)
        elif isinstance(call, Sleep):
            key = self._block(fiber, call.key or "sleep", call)
            self._at(call.seconds, lambda: self._ready.append((key, None, None)))
        elif isinstance(call, SignalWait):
            name = call.name
            key = self._block(fiber, call.key or f"signal:{name}", call)
            self._signal_waits.setdefault(name, []).append(key)
            if call.timeout is not None:
                self._at(call.timeout, lambda: self._ready.append((key, None, SignalTimeout(name))))
        else:
            return not_durable(fiber.code, call)
        return None

    def _block(self, fiber: Fiber, name: str, call: Call[Any]) -> str:
        key = fiber.blocked = fiber.key(name)
        self._waits[key] = _Wait(fiber, call)
        return key

    def _at(self, delay: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.time + delay, next(self._count), call))

    def _match_signals(self) -> bool:
        """Deliver the signals that have come to the oldest waits for them; return whether there were any."""
        for name, keys in self._signal_waits.items():
            while keys and self._hand.has_signal(name):
                waiting = self._waits.get(keys.pop(0))
                if waiting is None or not isinstance(waiting.call, SignalWait):
                    continue  # The wait timed out or was cancelled.
                value, error = self._signal(waiting.call, self._hand.take_signal(name))
                self._ready.append((str(waiting.fiber.blocked), value, error))
                return True
        return False

    def _signal(self, call: SignalWait[Any], data: Any) -> tuple[Any, BaseException | None]:
        """Return a signal's data as the wait's type, or the error to raise there."""
        declared = self._definition.signals.get(call.name)
        try:
            payload = (declared or ValueType.of(Any if data is None else type(data))).encode(data)
        except PayloadError:
            if declared is None or not isinstance(data, dict | list):
                raise
            payload = _ANY.encode(data)
        try:
            return call.value_type.decode(payload), None
        except PayloadError as error:
            return None, error

    # Cancelling.

    def _cancel_call(self, key: str) -> None:
        step = self._waits[key].step if key in self._waits else None
        if step is None or not step.cancel():
            self._ready.append((key, None, asyncio.CancelledError()))

    # Attempts.

    def _start_attempt(self, step: HandStep) -> None:
        if not step.cancelled:
            attempts = self._hand.attempts
            attempts[step.key] = attempts.get(step.key, 0) + 1
            self._running[step.start(self._definition.name, self.time, self._outside)] = step

    async def _wait_for_attempts(self) -> None:
        try:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._fibers.cancel()
            return
        # One at a time: what follows from an outcome comes before the next outcome.
        task = next(task for task in self._running if task.done())
        step = self._running.pop(task)
        outcome = step.outcome_of(task, self.time)
        if isinstance(outcome, float):
            self._at(outcome, partial(self._to_start.append, step))
        elif outcome.ends:
            self._fibers.end(None, outcome.error)
        else:
            self._ready.append((step.key, outcome.value, outcome.error))
