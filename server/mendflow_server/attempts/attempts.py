"""Running attempts: the only place where a step's own code executes.

An attempt is on record before it comes here. ``async def`` steps run on the
loop, ``def`` steps on daemon threads, so that no step can keep the process
from ending. What happened is reported once, as a `Report`:

- when the code has ended (at once, if it never suspends), or
- when a thread is cancelled or times out (a thread cannot be stopped, so the
  report does not wait for it), or
- when a task that was cancelled or timed out has not ended within the grace.

`Body.running` stays true until the code has really ended; until then it keeps
its slot, and the engine starts no further attempt of the step unless the step
says that attempts may overlap.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import os
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mendflow.authoring.context import ATTEMPT, Attempt, checked_progress
from mendflow.codec import ValueType, oversize
from mendflow.errors import PayloadError
from mendflow.v1 import failure_pb2, payload_pb2
from mendflow_server.attempts.eager_task import Carriers
from mendflow_server.failures.retry import cancelled_failure, classify, timeout_failure
from mendflow_server.runtime.forking import end_forked_child

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from mendflow.authoring.step import Step
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timer, Timers

_JSON = ValueType[Any].of(Any)
#: A workflow whose step has ended at once may go on with its slot; every so many times the line has it instead.
SHARE = 8
#: The last words of a child that a step forked, and that cannot go on.
AWAITS = "a forked child of a step must not await: its loop runs in the server alone"


class Order(NamedTuple):
    """What to run."""

    step: Step[..., Any]
    workflow_id: str
    workflow_type: str
    step_key: str
    number: int
    input: payload_pb2.Payload
    idempotency_key: str
    timeout: float | None
    #: In seconds since the epoch.
    deadline: float | None
    #: Details of an earlier attempt's last heartbeat, as stored; empty: none.
    last_heartbeat: bytes


class Report(NamedTuple):
    """What came of an attempt: an output, or a failure."""

    output: payload_pb2.Payload | None
    failure: failure_pb2.Failure | None
    #: The retry policy says not to retry this error.
    not_retried: bool = False


class _Running(Attempt):
    """The `Attempt` that a step's code gets."""

    def __init__(self, body: Body, order: Order) -> None:
        details = None
        if order.last_heartbeat:
            details = _JSON.decode(payload_pb2.Payload.FromString(order.last_heartbeat))
        # Not by keywords through `Attempt.__init__`: that takes four times as long.
        self.workflow_id = order.workflow_id
        self.workflow_type = order.workflow_type
        self.step_key = order.step_key
        self.number = order.number
        self.idempotency_key = order.idempotency_key
        self.last_heartbeat = details
        self._body = body

    @property
    def deadline(self) -> datetime | None:
        """When the attempt is cut off."""
        deadline = self._body.order.deadline
        return None if deadline is None else datetime.fromtimestamp(deadline, UTC)

    def heartbeat(self, details: Any = None) -> None:
        """Keep the details; on a thread that was cancelled, raise CancelledError."""
        body = self._body
        if body.closed and not body.order.step.is_async:
            raise asyncio.CancelledError
        payload = _JSON.encode(details)
        size = oversize(payload, body.runner.payload_limit)
        if size:
            msg = f"heartbeat details of {size} bytes; the limit is {body.runner.payload_limit}"
            raise PayloadError(msg)
        body.runner.on_loop(body, lambda: body.heard(payload.SerializeToString()))

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Hand the report to the engine."""
        body = self._body
        report = checked_progress(done, total, message)
        body.runner.on_loop(body, lambda: body.progressed(*report))


class Body:
    """One attempt's code, from its start until it has really ended."""

    __slots__ = (
        "_ending",
        "_limit",
        "at_once",
        "closed",
        "end_time",
        "heartbeat",
        "listener",
        "order",
        "progress",
        "runner",
        "running",
        "task",
    )

    def __init__(self, runner: Attempts, order: Order, listener: Listener) -> None:
        self.runner = runner
        self.order = order
        self.listener = listener
        self.running = True
        #: Reported, or abandoned.
        self.closed = False
        #: What came of it, if it ended before `launch` answered: the listener is not told then.
        self.at_once: Report | None = None
        #: When that was, in seconds since the epoch.
        self.end_time = 0.0
        #: Kept since the last time they were taken.
        self.heartbeat: bytes | None = None
        self.progress: tuple[int, int, str] | None = None
        self.task: asyncio.Task[Any] | None = None
        self._ending: failure_pb2.Failure | None = None
        self._limit: Timer | None = None

    def cancel(self) -> None:
        """Make it end, as cancelled."""
        self._cut(cancelled_failure("the attempt was cancelled by its workflow"))

    def abandon(self) -> None:
        """Make it end and report nothing: nobody listens any more."""
        self.closed = True
        self._disarm()
        if self.task is not None:
            self.task.cancel()

    def heard(self, details: bytes) -> None:
        """Keep heartbeat details."""
        if not self.closed:
            self.heartbeat = details
            self.listener.heard(self)

    def progressed(self, done: int, total: int, message: str) -> None:
        """Keep a progress report."""
        if not self.closed:
            self.progress = (done, total, message)
            self.listener.heard(self)

    def start(self, context: contextvars.Context) -> None:
        """Begin, with these context variables. Only after the attempt's record is on disk."""
        if self.order.step.is_async:
            begun = self.runner.carriers.begin(self._on_loop(), context)
            end_forked_child(self.runner.process, AWAITS)
            if isinstance(begun, Report):
                self.running = False
                self.closed = True
                self.at_once = begun
                self.end_time = self.runner.clock.time()
                return
            self.task = begun
        else:
            self.runner.threads.submit(lambda: context.run(self._on_thread))
        if self.order.timeout is not None:
            limit = self.order.timeout
            self._limit = self.runner.timers.after(limit, lambda: self._cut(timeout_failure(limit)))

    def _cut(self, failure: failure_pb2.Failure) -> None:
        if self.closed or self._ending is not None:
            return
        self._ending = failure
        if self.task is None:
            self.report(Report(None, failure))
            return
        self.task.cancel()
        self._disarm()
        self._limit = self.runner.timers.after(self.runner.cancel_grace, lambda: self.report(Report(None, failure)))

    async def _on_loop(self) -> Report:
        try:
            ATTEMPT.set(_Running(self, self.order))
            args, kwargs = self.order.step.arguments.decode(self.order.input)
            result = await self.order.step.function(*args, **kwargs)
            end_forked_child(self.runner.process)
            report = self._output(result)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a step is its failure
            end_forked_child(self.runner.process, error)
            report = self._failed(error)
        if self.task is not None:
            self._ended(report)
        return report

    def _on_thread(self) -> None:
        try:
            ATTEMPT.set(_Running(self, self.order))
            args, kwargs = self.order.step.arguments.decode(self.order.input)
            result = self.order.step.function(*args, **kwargs)
            end_forked_child(self.runner.process)
            if inspect.isawaitable(result):
                msg = f"step {self.order.step.name} is a def function that returned an awaitable; make it async def"
                raise TypeError(msg)  # noqa: TRY301 - reported like any error of the step
            report = self._output(result)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a step is its failure
            end_forked_child(self.runner.process, error)
            report = self._failed(error)
        self.runner.on_loop(self, lambda: self._ended(report))

    def _output(self, result: object) -> Report:
        payload = self.order.step.output_type.encode(result)
        size = oversize(payload, self.runner.payload_limit)
        if size:
            msg = (
                f"the result of step {self.order.step.name} has {size} bytes; the limit is {self.runner.payload_limit}"
            )
            raise PayloadError(msg)
        return Report(payload, None)

    def _failed(self, error: BaseException) -> Report:
        classified = classify(error, policy=self.order.step.retry, now=self.runner.clock.time())
        return Report(None, classified.failure, not_retried=classified.not_retried)

    def _ended(self, report: Report) -> None:
        self.running = False
        # Cut off, but its code ended otherwise: it is what the cut said.
        self.report(report if self._ending is None else Report(None, self._ending))
        self.runner.ended(self)
        self.listener.ended(self)

    def report(self, report: Report) -> None:
        """Tell the listener, once."""
        if not self.closed:
            self.closed = True
            self._disarm()
            self.listener.reported(self, report)

    def _disarm(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class Listener:
    """Who gets a body's news, on the loop."""

    __slots__ = ()

    def reported(self, body: Body, report: Report) -> None:
        """The attempt has come out."""

    def heard(self, body: Body) -> None:
        """It has a new heartbeat or progress report."""

    def ended(self, body: Body) -> None:
        """Its code has really ended."""


class Slots:
    """How many bodies may run at once. Who finds none free waits in line."""

    def __init__(self, size: int) -> None:
        self.free = size
        #: Each is called with a slot taken for it, and answers False when it no longer wants one.
        self.waiting: collections.deque[Callable[[], bool]] = collections.deque()
        self._kept = 0

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    def give(self) -> None:
        """Give it back: the next in line has it."""
        self.free += 1
        self.offer()

    def keep(self) -> None:
        """Give it back, for the same workflow to take it again at once; then `offer` it. The line has its share."""
        self.free += 1
        self._kept += 1
        if self._kept % SHARE == 0:
            self.offer(most=1)

    def offer(self, most: int | None = None) -> None:
        """Let those next in line have what is free, or only so many of them."""
        while self.free > 0 and self.waiting and most != 0:
            self.free -= 1
            if not self.waiting.popleft()():
                self.free += 1
            elif most is not None:
                most -= 1


class Attempts:
    """All bodies of this process."""

    def __init__(
        self,
        *,
        clock: Clock,
        timers: Timers,
        slots: int,
        threads: int,
        payload_limit: int,
        cancel_grace: float,
    ) -> None:
        self.clock = clock
        self.timers = timers
        self.payload_limit = payload_limit
        self.cancel_grace = cancel_grace
        self.process = os.getpid()
        self.task_slots = Slots(slots)
        self.thread_slots = Slots(threads)
        self.threads = DaemonThreads(threads)
        self.bodies: set[Body] = set()
        self._loop = asyncio.get_running_loop()
        self.carriers = Carriers(self._loop)

    def slots_for(self, step: Step[..., Any]) -> Slots:
        """Answer the slots that a step's attempts take theirs from."""
        return self.task_slots if step.is_async else self.thread_slots

    def launch(self, order: Order, listener: Listener, context: contextvars.Context) -> Body:
        """Run an attempt that holds a slot already.

        It may have ended when this returns (`Body.at_once`); its slot is kept for its workflow then.
        """
        body = Body(self, order, listener)
        body.start(context)
        if body.at_once is None:
            self.bodies.add(body)
        else:
            self.task_slots.keep()
        return body

    def close(self) -> None:
        """Begin nothing more."""
        self.carriers.close()

    def ended(self, body: Body) -> None:
        """Take a body's slot back."""
        self.bodies.discard(body)
        self.slots_for(body.order.step).give()

    def on_loop(self, body: Body, call: Callable[[], None]) -> None:
        """Call from the loop, wherever the body runs."""
        if body.order.step.is_async and threading.get_ident() == self.threads.loop_thread:
            call()
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # The loop is closed: the process ends, and recovery closes the attempt as lost.


class DaemonThreads:
    """Threads that never keep the process from ending, made as they are needed."""

    def __init__(self, limit: int) -> None:
        self.loop_thread = threading.get_ident()
        self._limit = limit
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._count = 0
        self._idle = threading.Semaphore(0)

    def submit(self, work: Callable[[], None]) -> None:
        """Run on a thread. The slots bound how much there is at once."""
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._serve, name=f"mendflow-step-{self._count}", daemon=True).start()
        self._work.put(work)

    def _serve(self) -> None:
        while True:
            self._work.get()()
            self._idle.release()
