"""A workflow's attempts: when each one starts, and what follows from its result.

A step that the code awaits gets its next attempt when its time has come and
the admission gate permits it. Otherwise it starts later: when an earlier
attempt's code has ended, when a slot is free, when the supervisor releases a
suspect, or when a timer fires.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mendflow.authoring.failures.retry import cancelled_failure, lost_failure
from mendflow.authoring.retry import RetryPolicy
from mendflow.authoring.step import Default
from mendflow.v1 import event_pb2, failure_pb2
from mendflow_server.attempts.model import AttemptRequest, AttemptResult
from mendflow_server.attempts.running_attempt import AttemptListener, RunningAttempt
from mendflow_server.execution.dispatcher import Actor
from mendflow_server.healing.admission import Decision
from mendflow_server.history.timestamps import set_time

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from mendflow.authoring.step import Step
    from mendflow.v1.payload_pb2 import Payload
    from mendflow_server.attempts.slots import Slots
    from mendflow_server.execution.services import Services
    from mendflow_server.execution.unit_of_work import UnitOfWork
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.history.state import CallRecord

#: A lost attempt is judged by this policy, because it uses up no budget.
_UNLIMITED = RetryPolicy(max_attempts=None)
_PERMIT, _HOLD_SLOT, _HOLD_DRAINING = Decision.PERMIT, Decision.HOLD_SLOT, Decision.HOLD_DRAINING
_HOLD_RUNNING = Decision.HOLD_RUNNING


class StepOwner(Actor, AttemptListener, Protocol):
    """The execution, as its steps see it."""

    def slot_came(self, step_key: str) -> None:
        """Start the step's attempt with a slot that was kept for it (`StepExecutor.release_slot`)."""

    def withdrawn(self, request: AttemptRequest) -> None:
        """Take note that an attempt was cancelled before its code ran."""


class StepOutcome(NamedTuple):
    """What follows from an attempt's result."""

    #: The step has its outcome, and the code continues.
    resolved: bool = False
    #: The step's next attempt follows.
    retried: bool = False
    #: Why the workflow must pause; empty: it need not.
    pause: str = ""


_RESOLVED, _RETRIED, _UNRESOLVED = StepOutcome(resolved=True), StepOutcome(retried=True), StepOutcome()


class StepExecutor:
    """The steps of one workflow.

    Its verbs get the execution as ``owner``. An executor that held it would make a cycle of every workflow, which only
    the garbage collector could free.
    """

    __slots__ = (
        "_alerted",
        "_builder",
        "_held",
        "_services",
        "_unit",
        "_withdrawn",
        "busy",
        "running",
        "waiting_for_slot",
    )

    def __init__(
        self,
        services: Services,
        builder: HistoryBuilder,
        unit: UnitOfWork,
    ) -> None:
        self._services = services
        self._builder = builder
        self._unit = unit
        #: The newest attempt of each step whose code runs, by the step's key.
        self.running: dict[str, RunningAttempt] = {}
        #: Steps that wait for a slot, with the slots of the one that was taken for each meanwhile.
        self.waiting_for_slot: dict[str, Slots | None] = {}
        #: Steps that the gate holds back, with its decision, until what holds them wants them again.
        self._held: dict[str, Decision] | None = None
        #: Steps whose wait for the code of an earlier attempt has an alert.
        self._alerted: set[str] | None = None
        #: Steps whose newest attempt was withdrawn before its code ran.
        self._withdrawn: set[str] | None = None
        #: Whether steps remain for the next process: a drain has stopped them here.
        self.busy = False

    @property
    def idle(self) -> bool:
        """Whether no attempt runs or waits for a slot."""
        return not (self.running or self.waiting_for_slot or self.busy)

    # Starting.

    def want(self, owner: StepOwner, key: str, step: Step[..., Any], payload: Payload, last_heartbeat: bytes) -> None:
        """Start the next attempt of a step that the code awaits, unless something holds it back."""
        record = self._builder.history.open.get(key)
        held = False
        if record is not None:
            due = record.next_attempt_time
            if record.started is not None or record.paused or (due is not None and due > self._builder.now):
                return
            held = record.held
        if key in self.waiting_for_slot:
            return
        services = self._services
        decision = services.admission.admit(self._unit.row.key, key, step, held=held, running=key in self.running)
        if self._held is not None:
            self._held.pop(key, None)
        if decision is _PERMIT:
            self._start(key, step, record, payload, last_heartbeat)
        elif decision is _HOLD_SLOT:
            slots = services.attempts.slots_for(step)
            self.waiting_for_slot[key] = None
            slots.waiting.append(lambda: self._slot_came(owner, key, slots))
        elif decision is _HOLD_DRAINING:
            self.busy = True
        else:
            self._held = {**(self._held or {}), key: decision}
            if decision is _HOLD_RUNNING and record is not None:
                self._alert_running(record)

    def _alert_running(self, record: CallRecord) -> None:
        """Raise one alert for a step that cannot start its next attempt, because the code of the last one runs."""
        if record.key in (self._alerted or ()):
            return
        self._alerted = {record.key, *(self._alerted or ())}
        self._unit.raise_alert(
            "attempt_outlasted",
            event_pb2.ALERT_SEVERITY_WARNING,
            f"step {record.key}: attempt {record.attempt + 1} waits, because the code of attempt {record.attempt} "
            "still runs and cannot be stopped; it continues when that code ends or the server restarts",
        )

    @property
    def waiting_for_code(self) -> Collection[str]:
        """The steps that wait until the hung code of an earlier attempt ends."""
        if self._held is None:
            return ()
        return [key for key, decision in self._held.items() if decision is _HOLD_RUNNING]

    def is_overlooked(self, key: str, step: Step[..., Any]) -> bool:
        """Return whether a step that is due has nothing in its way, because it fell due between two turns."""
        if key in self.waiting_for_slot or key in (self._held or ()) or self._services.admission.draining:
            return False
        return key not in self.running or step.overlap

    def release_slot(self, key: str) -> Slots | None:
        """Return a slot that was kept for a step; the caller wants the step again, then offers the slots.

        None: a pause has returned it meanwhile, and the step may wait again.
        """
        slots = self.waiting_for_slot.get(key)
        if slots is not None:
            del self.waiting_for_slot[key]
            slots.free += 1
        return slots

    def withdraw(self, key: str) -> None:
        """Cancel a step whose attempt is open. Its code may not run yet, because its start may not be committed."""
        attempt = self.running.get(key)
        record = self._builder.history.open.get(key)
        if attempt is not None and record is not None and attempt.request.number == record.attempt:
            self._unit.add_effect(attempt.cancel)
        else:
            self._withdrawn = {key, *(self._withdrawn or ())}

    def launch(self, owner: StepOwner, requests: Sequence[AttemptRequest]) -> list[RunningAttempt]:
        """Run attempts whose records are committed; return those that ended at once.

        An attempt that was closed or withdrawn meanwhile returns its slot. When the owner was evicted, all of them do.
        """
        at_once: list[RunningAttempt] = []
        services = self._services
        for index, request in enumerate(requests):
            key = request.step_key
            record = self._builder.history.open.get(key)
            started = None if record is None or record.attempt != request.number else record.started
            if started is not None and not owner.closed and key not in (self._withdrawn or ()):
                try:
                    context = services.observer.attempt_context(
                        self._unit.row, self._builder.history, key, request.number
                    )
                    on_record = self._unit.row.key, started.sequence
                    attempt = services.attempts.launch(request, owner, context, on_record)
                except BaseException:
                    # An internal error evicts this execution; the slots of the other attempts must not go with it.
                    self.cancel_launches(requests[index:])
                    raise
                if attempt.at_once is None:
                    self.running[key] = attempt
                else:
                    at_once.append(attempt)
                continue
            services.attempts.slots_for(request.step).give()
            if started is not None and not owner.closed:
                owner.withdrawn(request)
            if self._withdrawn is not None:
                self._withdrawn.discard(key)
        return at_once

    def cancel_launches(self, requests: Sequence[AttemptRequest]) -> None:
        """Return the slots of attempts that will not run."""
        for request in requests:
            self._services.attempts.slots_for(request.step).give()

    def _slot_came(self, owner: StepOwner, key: str, slots: Slots) -> bool:
        """Keep a slot that was taken for this step; return False when the step no longer waits for it."""
        if self.waiting_for_slot.get(key, slots) is not None:
            return False
        self.waiting_for_slot[key] = slots
        self._services.dispatcher.enqueue(owner, lambda: owner.slot_came(key))
        return True

    def _start(
        self,
        key: str,
        step: Step[..., Any],
        record: CallRecord | None,
        payload: Payload,
        last_heartbeat: bytes,
    ) -> None:
        row, builder = self._unit.row, self._builder
        event = builder.new()
        detail = event.attempt_started
        detail.step_key = key
        detail.step_name = step.name
        number = detail.attempt = 1 if record is None else record.attempt + 1
        if number == 1:
            if payload.WhichOneof("kind"):
                detail.input.CopyFrom(payload)
            idempotency_key = detail.idempotency_key = idempotency_key_of(row.uid, key)
        else:
            idempotency_key = builder.history.calls[key].idempotency_key
        timeout = self._services.settings.attempt_timeout if isinstance(step.timeout, Default) else step.timeout
        deadline = None
        if timeout is not None:
            deadline = builder.now + timeout
            set_time(detail.deadline, deadline)
        builder.add(event)
        # By position, in the order of `AttemptRequest`: keywords take twice as long.
        request = AttemptRequest(
            step,
            row.uid,
            row.workflow_id,
            row.workflow_type,
            key,
            number,
            payload,
            idempotency_key,
            timeout,
            deadline,
            last_heartbeat,
        )
        self._unit.add_launch(request)

    # Results.

    def open_record(self, request: AttemptRequest) -> CallRecord | None:
        """Return the step's record while this attempt is open. A terminate or the clean-up deadline may close it."""
        record = self._builder.history.open.get(request.step_key)
        if record is None or record.started is None or record.attempt != request.number:
            return None
        return record

    def complete(self, request: AttemptRequest, result: AttemptResult, *, wanted: bool) -> StepOutcome | None:
        """Record an attempt's result, with the decision what follows; None: the attempt is closed already.

        ``wanted`` says whether the code still awaits the step.
        """
        record = self.open_record(request)
        if record is None or record.started is None:
            return None
        started = record.started
        event = self._builder.new()
        outcome = _UNRESOLVED
        if result.failure is None:
            detail = event.attempt_succeeded
            detail.step_key = request.step_key
            detail.attempt = request.number
            if result.output is not None and result.output.WhichOneof("kind"):
                detail.output.CopyFrom(result.output)
            self._builder.add(event)
        else:
            outcome = self._fail(event, record, result, result.failure, request.step.retry, wanted=wanted)
        self.closed(started, event)
        return _RESOLVED if record.outcome is not None else outcome

    def _fail(
        self,
        event: event_pb2.Event,
        record: CallRecord,
        result: AttemptResult,
        failure: failure_pb2.Failure,
        policy: RetryPolicy,
        *,
        wanted: bool,
    ) -> StepOutcome:
        builder = self._builder
        failure.step_key = record.key
        detail = event.attempt_failed
        detail.step_key = record.key
        detail.attempt = record.attempt
        detail.failure.CopyFrom(failure)
        detail.decision.CopyFrom(
            self._services.decide(
                policy,
                # The code may have cancelled the step while the attempt failed by itself; no next one follows.
                failure if wanted else cancelled_failure(""),
                not_retried=result.not_retried,
                failed_attempts=record.failed_attempts + 1,
                first_attempt_time=builder.now if record.first_attempt_time is None else record.first_attempt_time,
                now=builder.now,
                jitter=self._services.random(),
            )
        )
        builder.add(event)
        self._report_failure(event)
        if detail.decision.action == failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW:
            why = f"step {record.key}: {detail.decision.explanation} Last failure: {failure.message}"
            return StepOutcome(pause=why)
        if detail.decision.action == failure_pb2.RETRY_ACTION_RETRY:
            return _RETRIED
        return _UNRESOLVED

    def lose(self, record: CallRecord, why: str) -> int:
        """Close an attempt that a crash or an internal error interrupted.

        Return the number of crashes for which its workflow must be quarantined; 0: it need not.
        """
        key, builder, guard = record.key, self._builder, self._services.admission.guard
        started = record.started
        crashes = guard.quarantined(self._unit.row.key, key)
        held = not crashes and guard.holds(self._unit.row.key, key)
        event = builder.new()
        detail = event.attempt_failed
        detail.step_key = key
        detail.attempt = record.attempt
        detail.failure.CopyFrom(lost_failure(why))
        detail.failure.step_key = key
        decision = detail.decision
        if crashes:
            decision.action = failure_pb2.RETRY_ACTION_QUARANTINE_WORKFLOW
            decision.reason = failure_pb2.RETRY_REASON_CRASH_BUDGET
            decision.explanation = f"The server crashed {crashes} times with this step running alone."
        elif held:
            decision.action = failure_pb2.RETRY_ACTION_RETRY
            decision.reason = failure_pb2.RETRY_REASON_SUSPECTED
            decision.explanation = "Running during two consecutive crashes; the next attempt will run in isolation."
        else:
            decision.CopyFrom(
                self._services.decide(
                    _UNLIMITED,
                    detail.failure,
                    not_retried=False,
                    failed_attempts=record.failed_attempts,
                    first_attempt_time=builder.now,
                    now=builder.now,
                    jitter=0.0,
                )
            )
        builder.add(event)
        self._report_failure(event)
        if started is not None:
            self.closed(started, event)
        return crashes

    def closed(self, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        """Report a closed attempt once that is committed."""
        observer, unit, guard = self._services.observer, self._unit, self._services.admission.guard
        if observer.traces:
            history = self._builder.history
            unit.add_effect(lambda: observer.attempt_closed(unit.row, history, started, closed))
        # A lost attempt does not clear its step: the next one has still to run without a crash.
        if guard.has_suspects and closed.attempt_failed.failure.kind != failure_pb2.FAILURE_KIND_LOST:
            key = started.attempt_started.step_key
            unit.add_effect(lambda: guard.ended(unit.row.key, key))

    def _report_failure(self, event: event_pb2.Event) -> None:
        observer, unit = self._services.observer, self._unit
        unit.add_effect(lambda: observer.attempt_failed(unit.row, event))

    def code_ended(self, attempt: RunningAttempt) -> bool:
        """Note that an attempt's code has really ended; return whether its step may be waiting for that."""
        key = attempt.request.step_key
        if self.running.get(key) is attempt:
            del self.running[key]
            return True
        return False

    # Ending.

    def take_over(self, owner: StepOwner, attempt: RunningAttempt) -> None:
        """Take over hung code of an earlier execution; the step's next attempt waits for it, as after a timeout."""
        self.running[attempt.request.step_key] = attempt
        attempt.pass_to(owner)

    def leave_to_next_process(self) -> list[RunningAttempt]:
        """Return the attempts that a drain interrupts; none when a thread runs, which cannot be interrupted."""
        open_attempts = [attempt for attempt in self.running.values() if not attempt.closed]
        if any(not attempt.request.step.is_async for attempt in open_attempts):
            return []
        self.busy = self.busy or bool(open_attempts)
        return open_attempts

    def cancel_all(self) -> None:
        """Cancel every running attempt once the workflow's end is committed."""
        for attempt in self.running.values():
            self._unit.add_effect(attempt.cancel)

    def stop_waiting(self) -> None:
        """Leave the line for slots, and return the slots that were kept for these steps."""
        for slots in self.waiting_for_slot.values():
            if slots is not None:
                slots.give()
        self.waiting_for_slot = {}

    def abandon_all(self) -> None:
        """Interrupt every running attempt without a result."""
        for attempt in list(self.running.values()):
            attempt.abandon()


def idempotency_key_of(uid: str, step_key: str) -> str:
    """Return the step's idempotency key, which is the same for every attempt."""
    return hashlib.blake2b(f"{uid}|{step_key}".encode(), digest_size=16).hexdigest()
