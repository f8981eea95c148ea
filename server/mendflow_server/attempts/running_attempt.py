"""One attempt's code, from its start until it has really ended.

The attempt reports its result once, as an `AttemptResult`:

- when the code has ended (at once, if it never suspends), or
- when a thread is cancelled or times out (a thread cannot be stopped, so the result does not wait for it), or
- when a task that was cancelled or timed out has not ended within the grace period.

`RunningAttempt.running` stays true until the code has really ended.
"""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from mendflow.authoring.context import ATTEMPT, Attempt, checked_progress
from mendflow.authoring.failures.retry import cancelled_failure, classify, timeout_failure
from mendflow.codec import ValueType, oversize
from mendflow.errors import PayloadError
from mendflow.v1 import failure_pb2, payload_pb2
from mendflow_server.attempts.model import AttemptRequest, AttemptResult
from mendflow_server.runtime.forking import end_forked_child

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from mendflow_server.attempts.eager_tasks import EagerTasks
    from mendflow_server.attempts.model import Mark
    from mendflow_server.attempts.threads import DaemonThreads
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timer, Timers

_JSON = ValueType[Any].of(Any)
#: The last message of a child process that a step forked, and that cannot continue.
AWAITS = "a forked child of a step must not await: its event loop runs in the server alone"


class AttemptListener(Protocol):
    """What an attempt reports to, on the loop."""

    def reported(self, attempt: RunningAttempt, result: AttemptResult) -> None:
        """Take the attempt's result."""

    def heard(self, attempt: RunningAttempt) -> None:
        """Take note of a new heartbeat or progress report."""

    def ended(self, attempt: RunningAttempt) -> None:
        """Take note that the attempt's code has really ended."""


class AttemptHost(Protocol):
    """What an attempt needs of the process that runs it; `AttemptRunner` is one."""

    clock: Clock
    #: By the monotonic clock.
    timers: Timers
    threads: DaemonThreads
    eager_tasks: EagerTasks
    #: In bytes.
    payload_limit: int
    #: In seconds.
    cancel_grace: float
    #: The id of the server's process.
    process: int

    def note_hung(self, attempt: RunningAttempt) -> None:
        """Note that an attempt is closed while its code still runs."""

    def outlasted(self, attempt: RunningAttempt) -> None:
        """Note that an interrupt did not stop the code of an attempt that is closed now."""

    def ended(self, attempt: RunningAttempt) -> None:
        """Take the attempt's slot back."""

    def on_loop(self, attempt: RunningAttempt, call: Callable[[], None]) -> None:
        """Make a call on the loop, from wherever the attempt runs."""


class _StepAttempt(Attempt):
    """The `Attempt` that a step's code gets."""

    def __init__(self, running: RunningAttempt, request: AttemptRequest) -> None:
        details = None
        if request.last_heartbeat:
            details = _JSON.decode(payload_pb2.Payload.FromString(request.last_heartbeat))
        # Keywords through `Attempt.__init__` take four times as long.
        self.workflow_id = request.workflow_id
        self.workflow_type = request.workflow_type
        self.step_key = request.step_key
        self.number = request.number
        self.idempotency_key = request.idempotency_key
        self.last_heartbeat = details
        self._running = running

    @property
    def deadline(self) -> datetime | None:
        """When the server interrupts the attempt."""
        deadline = self._running.request.deadline
        return None if deadline is None else datetime.fromtimestamp(deadline, UTC)

    def heartbeat(self, details: Any = None) -> None:
        """Keep the details. On a thread that was cancelled, raise CancelledError."""
        running = self._running
        if running.closed and not running.request.step.is_async:
            raise asyncio.CancelledError
        payload = _JSON.encode(details)
        limit = running.host.payload_limit
        size = oversize(payload, limit)
        if size:
            msg = f"heartbeat details of {size} bytes exceed the limit of {limit}"
            raise PayloadError(msg)
        running.host.on_loop(running, lambda: running.heard(payload.SerializeToString()))

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Hand the report to the engine."""
        running = self._running
        report = checked_progress(done, total, message)
        running.host.on_loop(running, lambda: running.progressed(*report))


class RunningAttempt:
    """One attempt whose record is committed."""

    __slots__ = (
        "_ending",
        "_limit",
        "at_once",
        "closed",
        "end_time",
        "heartbeat_details",
        "host",
        "listener",
        "outlasted",
        "progress",
        "request",
        "running",
        "task",
    )

    def __init__(self, host: AttemptHost, request: AttemptRequest, listener: AttemptListener) -> None:
        self.host = host
        self.request = request
        self.listener = listener
        self.running = True
        #: It has reported, or was abandoned.
        self.closed = False
        #: It has reported because an interrupt did not stop its code.
        self.outlasted = False
        #: Its result, if it ended before `start` returned; the listener is not notified then.
        self.at_once: AttemptResult | None = None
        #: When that was, in seconds since the epoch.
        self.end_time = 0.0
        #: The newest heartbeat details and progress that the listener has not taken yet.
        self.heartbeat_details: bytes | None = None
        self.progress: tuple[int, int, str] | None = None
        self.task: asyncio.Task[Any] | None = None
        self._ending: failure_pb2.Failure | None = None
        self._limit: Timer | None = None

    def start(self, context: contextvars.Context, on_record: tuple[int, int]) -> None:
        """Run the step's code with these context variables.

        The attempt must be on record: ``on_record`` is its workflow's key and the sequence of its AttemptStarted.
        """
        host = self.host
        if self.request.step.is_async:
            begun = host.eager_tasks.begin(self._on_loop(), context, on_record)
            end_forked_child(host.process, AWAITS)
            if isinstance(begun, AttemptResult):
                self.running = False
                self.closed = True
                self.at_once = begun
                self.end_time = host.clock.time()
                return
            self.task = begun
        else:
            host.threads.submit(lambda mark: context.run(self._on_thread, mark, on_record))
        if self.request.timeout is not None:
            limit = self.request.timeout
            self._limit = host.timers.after(limit, lambda: self._interrupt(timeout_failure(limit)))

    def cancel(self) -> None:
        """Interrupt the attempt; its result is a cancellation."""
        self._interrupt(cancelled_failure("the attempt was cancelled by its workflow"))

    def abandon(self) -> None:
        """Interrupt the attempt without a result."""
        self._close()
        if self.task is not None:
            self.task.cancel()

    def heard(self, details: bytes) -> None:
        """Keep heartbeat details for the listener."""
        if not self.closed:
            self.heartbeat_details = details
            self.listener.heard(self)

    def progressed(self, done: int, total: int, message: str) -> None:
        """Keep a progress report for the listener."""
        if not self.closed:
            self.progress = (done, total, message)
            self.listener.heard(self)

    def take_report(self) -> tuple[bytes | None, tuple[int, int, str] | None]:
        """Return the newest heartbeat details and progress, each None if there is none, and forget them."""
        report = self.heartbeat_details, self.progress
        self.heartbeat_details = self.progress = None
        return report

    def report(self, result: AttemptResult) -> None:
        """Report the result to the listener, once."""
        if not self.closed:
            self._close()
            self.listener.reported(self, result)

    def _close(self) -> None:
        self._disarm()
        if not self.closed:
            self.closed = True
            if self.running:
                self.host.note_hung(self)

    def _outlast(self, failure: failure_pb2.Failure) -> None:
        """Report an interrupt that did not stop the code."""
        if not self.closed:
            self.outlasted = True
            self.report(AttemptResult(None, failure))
            self.host.outlasted(self)

    def pass_to(self, listener: AttemptListener) -> None:
        """Report to another listener from now on; the workflow was loaded again."""
        self.listener = listener

    def _interrupt(self, failure: failure_pb2.Failure) -> None:
        if self.closed or self._ending is not None:
            return
        self._ending = failure
        if self.task is None:
            self._outlast(failure)
            return
        self.task.cancel()
        self._disarm()
        host = self.host
        self._limit = host.timers.after(host.cancel_grace, lambda: self._outlast(failure))

    async def _on_loop(self) -> AttemptResult:
        try:
            ATTEMPT.set(_StepAttempt(self, self.request))
            args, kwargs = self.request.step.arguments.decode(self.request.input)
            value = await self.request.step.function(*args, **kwargs)
            end_forked_child(self.host.process)
            result = self._succeeded(value)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a step is its failure
            end_forked_child(self.host.process, error)
            result = self._failed(error)
        if self.task is not None:
            self._ended(result)
        return result

    def _on_thread(self, mark: Mark, on_record: tuple[int, int]) -> None:
        mark[1] = on_record[1]
        mark[0] = on_record[0]
        try:
            ATTEMPT.set(_StepAttempt(self, self.request))
            args, kwargs = self.request.step.arguments.decode(self.request.input)
            value = self.request.step.function(*args, **kwargs)
            end_forked_child(self.host.process)
            if inspect.isawaitable(value):
                msg = f"step {self.request.step.name} is a def function that returned an awaitable; make it async def"
                raise TypeError(msg)  # noqa: TRY301 - reported like any error of the step
            result = self._succeeded(value)
        except BaseException as error:  # noqa: BLE001 - whatever leaves a step is its failure
            end_forked_child(self.host.process, error)
            result = self._failed(error)
        mark[0] = 0
        self.host.on_loop(self, lambda: self._ended(result))

    def _succeeded(self, value: object) -> AttemptResult:
        payload = self.request.step.output_type.encode(value)
        limit = self.host.payload_limit
        size = oversize(payload, limit)
        if size:
            msg = f"the result of step {self.request.step.name} has {size} bytes, which exceeds the limit of {limit}"
            raise PayloadError(msg)
        return AttemptResult(payload, None)

    def _failed(self, error: BaseException) -> AttemptResult:
        classified = classify(error, policy=self.request.step.retry, now=self.host.clock.time())
        return AttemptResult(None, classified.failure, not_retried=classified.not_retried)

    def _ended(self, result: AttemptResult) -> None:
        self.running = False
        # An interrupted attempt ends as interrupted, however its code ended.
        self.report(result if self._ending is None else AttemptResult(None, self._ending))
        self.host.ended(self)
        self.listener.ended(self)

    def _disarm(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
