"""A step of a workflow that is called by hand: its attempts, and what follows from each."""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from mendflow.authoring.context import ATTEMPT, Attempt
from mendflow.codec import ValueType
from mendflow.errors import StepFailed
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    import contextvars

    from mendflow.authoring.step import Step
    from mendflow.v1.failure_pb2 import RetryDecision
    from mendflow.v1.payload_pb2 import Payload

__all__ = ["WORKFLOW_ID", "HandStep", "Outcome"]

#: The id of each workflow that runs by hand.
WORKFLOW_ID = "by-hand"
_ANY = ValueType[Any].of(Any)


class _HandAttempt(Attempt):
    """The attempt of a step that runs by hand. It keeps the details of its heartbeats for the next one."""

    def heartbeat(self, details: Any = None) -> None:
        """See `Attempt.heartbeat`."""
        self.last_details = _ANY.encode(details)

    last_details: Payload | None = None


class Outcome(NamedTuple):
    """What the awaiting line of a step gets."""

    value: Any = None
    error: BaseException | None = None
    #: The error ends the whole run, and the code does not see it.
    ends: bool = False


class _AttemptTimeout(Exception):
    """An attempt exceeded its timeout, in real seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"the attempt exceeded its timeout of {self.seconds:g} s"


class HandStep:
    """One step with its attempts, which are tasks of the caller's event loop."""

    __slots__ = ("_first", "_heartbeat", "_idempotency_key", "_number", "_payload", "_step", "cancelled", "key", "task")

    def __init__(self, key: str, step: Step[..., Any], payload: Payload) -> None:
        self.key = key
        self._step = step
        self._payload = payload
        self._number = 0
        #: When the first attempt started, in seconds since the epoch.
        self._first = 0.0
        self._idempotency_key = uuid.uuid4().hex
        #: The details of the newest heartbeat.
        self._heartbeat: Payload | None = None
        #: The attempt that runs.
        self.task: asyncio.Task[Outcome] | None = None
        #: Its workflow has cancelled it.
        self.cancelled = False

    def start(self, workflow_type: str, now: float, context: contextvars.Context) -> asyncio.Task[Outcome]:
        """Start the next attempt in a copy of this context; return its task. ``now`` is in seconds since the epoch."""
        self._number += 1
        if self._number == 1:
            self._first = now
        limit = self._step.timeout if isinstance(self._step.timeout, int | float) else None
        this = _HandAttempt(
            workflow_id=WORKFLOW_ID,
            workflow_type=workflow_type,
            step_key=self.key,
            number=self._number,
            idempotency_key=self._idempotency_key,
            deadline=None if limit is None else datetime.fromtimestamp(now + limit, UTC),
            last_heartbeat=None if self._heartbeat is None else _ANY.decode(self._heartbeat),
        )
        context = context.copy()
        context.run(ATTEMPT.set, this)
        self.task = asyncio.get_running_loop().create_task(self._attempt(this, limit), context=context)
        return self.task

    def cancel(self) -> bool:
        """Cancel the step; return whether its outcome follows only when the attempt has ended."""
        self.cancelled = True
        return self.task is not None and self.task.cancel()

    async def _attempt(self, this: _HandAttempt, limit: float | None) -> Outcome:
        """Run the step's code once. Return its result, as the history would have it, or its error."""
        step = self._step
        try:
            value = await self._called(limit) if step.is_async else self._called_here()
            return Outcome(step.output_type.decode(step.output_type.encode(value)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what leaves a step is its failure
            return Outcome(error=error)
        finally:
            if this.last_details is not None:
                self._heartbeat = this.last_details

    async def _called(self, limit: float | None) -> Any:
        args, kwargs = self._step.arguments.decode(self._payload)
        scope = asyncio.timeout(limit)
        try:
            async with scope:
                return await self._step.function(*args, **kwargs)
        except TimeoutError:
            if limit is not None and scope.expired():
                raise _AttemptTimeout(limit) from None
            raise

    def _called_here(self) -> Any:
        args, kwargs = self._step.arguments.decode(self._payload)
        value = self._step.function(*args, **kwargs)
        if inspect.isawaitable(value):
            msg = f"step {self._step.name} is a def function that returned an awaitable; make it async def"
            raise TypeError(msg)
        return value

    def outcome_of(self, task: asyncio.Task[Outcome], now: float) -> Outcome | float:
        """Return the step's outcome after this attempt, or the delay of the next attempt, in seconds."""
        self.task = None
        if self.cancelled or task.cancelled():
            return Outcome(error=asyncio.CancelledError())
        raised = task.exception()
        if raised is not None:
            return Outcome(error=raised, ends=True)  # Such as that of pytest.skip(), which is for the test.
        outcome = task.result()
        if outcome.error is None:
            return outcome
        failure, decision = self._judged(outcome.error, now)
        if decision.action == failure_pb2.RETRY_ACTION_RETRY:
            return decision.delay.seconds + decision.delay.nanos / 1e9
        failed = StepFailed(self.key, failure)
        failed.__cause__ = outcome.error
        paused = decision.action == failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW
        if paused:
            failed.add_note("on_exhaustion='pause' pauses the workflow here, and its code does not see this error")
        return Outcome(error=failed, ends=paused)

    def _judged(self, error: BaseException, now: float) -> tuple[failure_pb2.Failure, RetryDecision]:
        """Return the failure of an attempt, and what a server would decide."""
        from mendflow.authoring.failures.retry import classify, decide, timeout_failure  # noqa: PLC0415 - slow to import

        classified = classify(error, policy=self._step.retry, now=now)
        timed_out = isinstance(error, _AttemptTimeout)
        failure = timeout_failure(error.seconds) if isinstance(error, _AttemptTimeout) else classified.failure
        failure.step_key = self.key
        decision = decide(
            self._step.retry,
            failure,
            not_retried=classified.not_retried and not timed_out,
            failed_attempts=self._number,
            first_attempt_time=self._first,
            now=now,
            jitter=random.random(),  # noqa: S311 - for jitter
        )
        return failure, decision
