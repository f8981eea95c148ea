"""One open workflow in memory: inputs become events, and commits become effects.

Theory of operation. Every input (an attempt's result, a timer, a message from
the inbox) becomes events in the history builder. The workflow runner then runs
the code as far as it can. What the code asks for becomes more events. At the
end of the turn `flush` submits one change with all of them to the committer.
Effects (an attempt's code, a cancellation, a reply, a frame) are kept in the
unit of work and happen when that change is committed, never before.

The row's generation and last sequence guard each change. When they turn out to
be stale, another replica runs the workflow, and this execution is evicted.

Control flows down by calls, and results flow up as return values. Only what
`ExecutionEvents` lists is reported upwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mendflow.authoring.failures.retry import cancelled_failure
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.attempts.model import AttemptResult
from mendflow_server.execution import closing, stopping
from mendflow_server.execution.code import WorkflowCode
from mendflow_server.execution.message_recorder import MessageRecorder
from mendflow_server.execution.progress import Progress
from mendflow_server.execution.steps import StepExecutor
from mendflow_server.execution.unit_of_work import UnitOfWork
from mendflow_server.healing.engine_faults import NONE
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import MOVING_STATES
from mendflow_server.history.timestamps import seconds
from mendflow_server.history.workflow_status import WorkflowStatus, derive_status, next_time
from mendflow_server.store.records import CommitOutcome, InboxKind, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1 import failure_pb2
    from mendflow_server.attempts.model import AttemptRequest
    from mendflow_server.attempts.running_attempt import RunningAttempt
    from mendflow_server.execution.services import Services
    from mendflow_server.execution.start_command import StartCommand
    from mendflow_server.healing.engine_faults import Faulted
    from mendflow_server.history.state import CallRecord, History
    from mendflow_server.replay.workflow_runner import WorkflowRunner
    from mendflow_server.runtime.timers import Timer
    from mendflow_server.store.records import Change, Guard, Loaded, Row

_NON_DETERMINISM = event_pb2.STATE_REASON_NON_DETERMINISM
_ENGINE_FAULT = event_pb2.STATE_REASON_ENGINE_FAULT
_WORKFLOW_ERROR = event_pb2.STATE_REASON_WORKFLOW_ERROR
_PROCESS_ENDED = "the process that ran this attempt ended before it did"


class ExecutionEvents(Protocol):
    """What an execution reports upwards. The engine implements it."""

    def committed(
        self, execution: Execution, change: Change, events: Sequence[event_pb2.Event], *, fresh: bool
    ) -> None:
        """Take note of a committed change; ``fresh`` says that it made the workflow."""

    def closed(self, execution: Execution, final: event_pb2.Event) -> None:
        """Take note that the workflow's end is committed."""

    def conflicted(self, execution: Execution, outcome: CommitOutcome) -> None:
        """Take note that the store refused a change: another driver has the workflow, or its file is damaged."""

    def left_to_other_build(self, execution: Execution) -> bool:
        """Leave the workflow to a replica with other code, because this one's cannot continue it.

        Return False if there is none: then the execution stops the workflow. Otherwise it has been evicted.
        """

    def replay_failed(self, execution: Execution) -> None:
        """Load the workflow again: its code could not replay the history, and a new result may change that."""

    def faulted(self, execution: Execution, error: BaseException) -> None:
        """Handle an internal error in this workflow."""


class Execution:
    """An open workflow in memory.

    ``workflow`` is None when this server cannot run its code: it does not
    serve the type, or does not understand an event. ``guard`` is None for a
    new workflow.
    """

    __slots__ = (
        "_builder",
        "_code",
        "_events",
        "_faulted",
        "_held",
        "_history_warned",
        "_messages",
        "_not_served",
        "_progress",
        "_result_came",
        "_services",
        "_steps",
        "_timer",
        "_timer_at",
        "_unit",
        "closed",
        "history",
        "queued",
        "rested",
    )

    def __init__(
        self,
        services: Services,
        events: ExecutionEvents,
        row: Row,
        history: History,
        *,
        guard: Guard | None,
        workflow: Workflow[Any, Any] | None,
    ) -> None:
        self._services = services
        self._events = events
        self.history = history
        self._builder = HistoryBuilder(history)
        self._unit = UnitOfWork(row, guard, self._builder)
        self._steps = StepExecutor(services, self._builder, self._unit)
        self._code = WorkflowCode(services, self._builder, self._unit, workflow)
        self._progress: Progress | None = None
        #: Evicted: nothing may follow from it any more.
        self.closed = False
        #: How many calls wait for its next turn.
        self.queued = 0
        #: When it last came to rest, in monotonic seconds.
        self.rested = 0.0
        self._messages: MessageRecorder | None = None
        #: Its code waits until the crash guard releases it.
        self._held = False
        self._not_served = False
        #: Why it is stopped while the messages after an internal error are taken in.
        self._faulted = ""
        self._history_warned = False
        #: A result has come while the code could not replay the history; with it, it may.
        self._result_came = False
        self._timer: Timer | None = None
        self._timer_at = 0.0

    # What others see.

    @property
    def row(self) -> Row:
        """The newest committed row; for a new workflow, the row of its first commit."""
        return self._unit.row

    @property
    def stored(self) -> bool:
        """Whether the workflow is in the store."""
        return self._unit.guard is not None

    @property
    def in_flight(self) -> bool:
        """Whether a change is submitted and not decided yet."""
        return self._unit.in_flight

    @property
    def idle(self) -> bool:
        """Whether it can be evicted and loaded again without any loss."""
        return (
            not (
                self._unit.in_flight
                or self.queued
                or self._builder.pending
                or (self._progress is not None and self._progress.waiting)
            )
            and self._steps.idle
        )

    # Beginning.

    def begin(self, command: StartCommand) -> None:
        """Begin a new workflow: record its start and run its code."""
        row = self.row
        event = self._builder.new()
        detail = event.workflow_started
        detail.workflow_type = row.workflow_type
        detail.uid = row.uid
        detail.workflow_id = row.workflow_id
        detail.trace.CopyFrom(command.trace)
        if command.input is not None and command.input.WhichOneof("kind"):
            detail.input.CopyFrom(command.input)
        for name, value in command.labels.items():
            detail.labels[name] = value
        self._builder.add(event)
        self._after_drive(self._code.start(command.argument))

    def resume_from(
        self, loaded: Loaded, *, retry: bool, faulted: Faulted = NONE, previous_replica_id: str | None = None
    ) -> None:
        """Continue a workflow out of the store: close interrupted attempts, replay, and take in its inbox.

        With ``retry`` a workflow that is paused because its code could not
        replay the history is resumed if the code can now. ``faulted`` has the
        internal errors for which it is loaded again; from the second one on it
        is paused. A claimed workflow had another replica before the loaded row's.
        """
        interrupted = self._take_on(loaded, previous_replica_id)
        why = (
            f"an internal error of the server ended this attempt: {faulted.error}" if faulted.times else _PROCESS_ENDED
        )
        for record in interrupted:
            crashes = self._steps.lose(record, why)
            if crashes:
                self._quarantine(record.key, crashes)
        crashes = self._services.admission.guard.quarantined(self.row.key, "")
        if crashes:
            self._quarantine("", crashes)
        if faulted.pauses:
            self._stop_after_faults(stopping.after_faults(faulted.error, self.row.uid))
        else:
            # Not a workflow that was stopped for another reason, perhaps just now.
            failed = self.history.stopped_reason == _WORKFLOW_ERROR
            unfit = failed or self.history.stopped_reason == _NON_DETERMINISM
            if retry and unfit and self._code.can_replay(loaded.events, failed=failed):
                event = self._builder.new()
                event.workflow_resumed.actor = "supervisor"
                event.workflow_resumed.reason = "the code that is served now can replay it"
                self._builder.add(event)
            self.resume()
        for message in loaded.inbox:
            if not self.closed:
                self.deliver(message)
        self._faulted = ""

    def _take_on(self, loaded: Loaded, previous_replica_id: str | None) -> list[CallRecord]:
        """Restore what is beside the history, and record the change of the driver; return the open attempts."""
        if loaded.heartbeats:
            self._reports().restore(loaded.heartbeats)
        if previous_replica_id is None:
            previous_replica_id = loaded.row.replica_id
        elif loaded.events:
            # No new event may be earlier than those of another replica, whose clock may be ahead.
            self._builder.earliest = seconds(event_pb2.Event.FromString(loaded.events[-1]).time)
            self.begin_turn(self._builder.now)
        interrupted = self.history.open_attempts()
        row = self.row
        if previous_replica_id != row.replica_id and (interrupted or loaded.row.state in MOVING_STATES):
            event = self._builder.new()
            event.workflow_recovered.generation = row.generation
            event.workflow_recovered.replica_id = row.replica_id
            event.workflow_recovered.previous_replica_id = previous_replica_id
            self._builder.add(event)
        return interrupted

    def take_over_attempt(self, attempt: RunningAttempt) -> None:
        """Take over hung code of an earlier execution of this workflow."""
        self._steps.take_over(self, attempt)

    def resume(self) -> None:
        """Replay the history and continue, if the code may run."""
        if self.history.final is not None or self.history.stopped:
            return
        if not self._code.is_served:
            self._not_served = not self._events.left_to_other_build(self)
        elif self._code.is_held:
            self._held = True
        elif self._code.runner is None:
            self._held = False
            self._after_drive(self._code.replay())

    def _stop_after_faults(self, why: str) -> None:
        """Stop without running any code, because the server met an internal error twice in a row."""
        self._faulted = why
        if self.history.cancel:
            self._finish(closing.cancelled(self._builder, cut=list(self.history.open), deadline=False))
        elif not self.history.stopped:
            self._pause(_ENGINE_FAULT, why, "")

    # Driving.

    def _after_drive(self, problem: str) -> None:
        """Act on what the code asks for, or pause because of the ``problem`` that it has with the history.

        In a paused workflow attempts in progress continue, and their results are recorded. One that is being
        cancelled ends at its clean-up deadline, unless other code comes before.
        """
        if problem:
            self._stop_unfit(problem)
            return
        runner = self._code.runner
        if runner is None:
            return
        if runner.unwanted:
            for key in runner.take_unwanted():
                self._steps.withdraw(key)
        if runner.done:
            if runner.progress is not None:
                self._reports().record_workflow(runner)
            self._end_code(runner)
            return
        if runner.newly_wanted:
            for key in runner.take_newly_wanted():
                self.want(key)
        if runner.progress is not None:
            self._reports().offer_workflow(runner)

    def _stop_unfit(self, problem: str) -> None:
        if not self._events.left_to_other_build(self):
            self._pause(_NON_DETERMINISM, problem, "")

    def _end_code(self, runner: WorkflowRunner) -> None:
        """End the workflow as its code has ended, or pause it because of the error."""
        now = self._services.clock.time()
        result = closing.result_of(self._builder, runner, self._services.settings.payload_limit)
        if result.error is None or not self._code.pauses_on_error:
            self._finish(closing.of_result(self._builder, result, now))
            return
        failure = closing.failure_of(result.error, now)
        self._pause(_WORKFLOW_ERROR, stopping.after_error(failure), "", failure)

    def want(self, step_key: str) -> None:
        """Start the next attempt of a step if the code awaits it and nothing holds it back."""
        runner = self._code.runner
        if runner is None:
            return
        wanted = runner.wanted.get(step_key)
        if wanted is not None:
            call, payload = wanted
            heartbeat = b"" if self._progress is None else self._progress.last_heartbeat(step_key)
            self._steps.want(self, step_key, call.step, payload, heartbeat)

    def _pause(
        self,
        reason: event_pb2.StateReason.ValueType,
        explanation: str,
        step_key: str,
        failure: failure_pb2.Failure | None = None,
    ) -> None:
        """Stop until an operator, or other code, resumes the workflow."""
        stopping.pause(self._builder, self._unit, reason, explanation, step_key, failure)
        self._stop_code()

    def _quarantine(self, step_key: str, crashes: int) -> None:
        """Stop because the workflow keeps crashing the server."""
        stopping.quarantine(self._builder, self._unit, step_key, crashes)
        self._stop_code()

    def _stop_code(self) -> None:
        if self._steps.waiting_for_slot:
            self._steps.stop_waiting()
        if self._code.runner is not None:
            self._code.stop()

    # Time.

    def begin_turn(self, now: float) -> None:
        """Set the time of new events, in seconds since the epoch."""
        self._builder.now = max(now, self._builder.earliest)

    def on_timer(self) -> None:
        """Record everything that is due."""
        self._timer = None
        now = self._builder.now
        if self.history.final is not None:
            return
        deadline = self.history.cleanup_deadline
        if deadline is not None and deadline <= now:
            self._finish(closing.cancelled(self._builder, cut=list(self.history.open), deadline=True))
            return
        if self.history.stopped:
            return
        self._record_due(now)
        if self._code.runner is not None:
            for key in list(self._code.runner.wanted):
                self.want(key)

    def _record_due(self, now: float) -> None:
        """Record each timer and signal wait that is over, in their order, until one ends or stops the workflow."""
        due = [
            (record.wake_time, key)
            for key, record in self.history.open.items()
            if record.wake_time is not None and record.wake_time <= now
        ]
        for _, key in sorted(due):
            record = self.history.open.get(key)
            if record is None or self.history.stopped:
                continue
            event = self._builder.new()
            if record.kind == "timer":
                event.timer_fired.key = key
            else:
                event.signal_timed_out.key = key
            self._builder.add(event)
            runner = self._code.runner
            if runner is not None:
                self._after_drive(self._code.drive(runner.outcome_recorded, key))
            if self.history.final is not None:
                return

    def _arm_timer(self) -> None:
        wake = None
        if self._code.is_served or self.history.cancel:
            wake = next_time(self.history, self._builder.now, self._is_overlooked)
        timer = self._timer
        if timer is not None:
            if wake == self._timer_at:
                return
            timer.cancel()
            self._timer = None
        if wake is not None:
            self._timer_at = wake
            dispatcher = self._services.dispatcher
            self._timer = self._services.wall_timers.at(wake, lambda: dispatcher.enqueue(self, self.on_timer))

    def _is_overlooked(self, step_key: str) -> bool:
        """Return whether a step that is due has nothing in its way, because it fell due between two turns."""
        runner = self._code.runner
        wanted = None if runner is None else runner.wanted.get(step_key)
        return wanted is not None and self._steps.is_overlooked(step_key, wanted[0].step)

    # Attempts (`AttemptListener`, `StepOwner`).

    def reported(self, attempt: RunningAttempt, result: AttemptResult) -> None:
        """Record the attempt's result in the next turn."""
        self._services.dispatcher.enqueue(self, lambda: self.on_attempt_result(attempt, result))

    def heard(self, attempt: RunningAttempt) -> None:
        """Record the attempt's newest report in the next turn."""
        self._services.dispatcher.enqueue(self, lambda: self._on_attempt_report(attempt))

    def ended(self, attempt: RunningAttempt) -> None:
        """Start the step's next attempt in the next turn, if it waits for the end of this one."""
        self._services.dispatcher.enqueue(self, lambda: self._on_code_ended(attempt))

    def withdrawn(self, request: AttemptRequest) -> None:
        """Record in the next turn that an attempt was cancelled before its code ran."""
        result = AttemptResult(None, cancelled_failure("the attempt was cancelled before its code ran"))
        self._services.dispatcher.enqueue(self, lambda: self._complete(request, result))

    def slot_came(self, step_key: str) -> None:
        """Use the slot that was kept for a step."""
        slots = self._steps.release_slot(step_key)
        if slots is not None:
            self.want(step_key)
            slots.offer()  # If the step did not take it, the next in line does.

    def launch(self, requests: Sequence[AttemptRequest]) -> Sequence[RunningAttempt]:
        """Run committed attempts; return those that ended at once."""
        return self._steps.launch(self, requests)

    def ended_at_once(self, attempt: RunningAttempt) -> None:
        """Record the result of an attempt that ended at once."""
        if attempt.at_once is not None:
            self.begin_turn(attempt.end_time)
            self.on_attempt_result(attempt, attempt.at_once)

    def on_attempt_result(self, attempt: RunningAttempt, result: AttemptResult) -> None:
        """Record an attempt's result and its last report, and continue the code if that resolves the step."""
        request = attempt.request
        if attempt.heartbeat_details is not None or attempt.progress is not None:
            if self._steps.open_record(request) is None:
                return
            self._reports().record(attempt)
        self._complete(request, result)

    def _complete(self, request: AttemptRequest, result: AttemptResult) -> None:
        key, runner = request.step_key, self._code.runner
        outcome = self._steps.complete(request, result, wanted=runner is None or key in runner.wanted)
        if outcome is None:
            return  # A late result.
        if self._progress is not None:
            self._progress.close_step(key)
        if outcome.resolved:
            if runner is not None:
                self._after_drive(self._code.drive(runner.outcome_recorded, key))
            elif self.history.stopped_reason == _NON_DETERMINISM:
                self._result_came = True
        elif outcome.retried:
            self.want(key)
        elif outcome.pause and self.history.stopped_reason in (0, _NON_DETERMINISM):
            # Also a workflow that is paused because of its code: that alone would be resumed without an operator.
            self._pause(event_pb2.STATE_REASON_RETRIES_EXHAUSTED, outcome.pause, key)

    def _on_code_ended(self, attempt: RunningAttempt) -> None:
        if self._steps.code_ended(attempt):
            self.want(attempt.request.step_key)

    def _on_attempt_report(self, attempt: RunningAttempt) -> None:
        current = self._steps.running.get(attempt.request.step_key)
        if current is attempt and not attempt.closed and self.history.final is None:
            self._reports().offer(attempt)

    def _reports(self) -> Progress:
        progress = self._progress
        if progress is None:
            services = self._services
            progress = self._progress = Progress(
                self._builder,
                self._unit,
                services.clock,
                services.monotonic_timers,
                lambda: services.dispatcher.enqueue(self, self._record_reports),
            )
        return progress

    def _record_reports(self) -> None:
        if self.history.final is None and self._progress is not None:
            self._progress.record_due(self._steps.running, self._code.runner)

    def hand_over(self) -> None:
        """Close what runs on the loop as lost, because the process ends.

        A workflow with a running thread stays as it is: the next process closes its attempts.
        """
        for attempt in self._steps.leave_to_next_process():
            record = self.history.open.get(attempt.request.step_key)
            if record is not None and record.started is not None:
                if attempt.heartbeat_details is not None or attempt.progress is not None:
                    self._reports().record(attempt)
                crashes = self._steps.lose(record, _PROCESS_ENDED)
                if crashes:
                    self._quarantine(record.key, crashes)
            attempt.abandon()

    # Messages.

    def deliver(self, message: Message) -> None:
        """Take a message from the inbox into the history, once, and continue with what follows from it."""
        messages = self._messages
        if messages is None:
            messages = self._messages = MessageRecorder(self._services, self._builder, self._unit)
        if not messages.take(message):
            return
        if message.kind is InboxKind.TERMINATE:
            self._finish(closing.terminated(self._builder, event_pb2.WorkflowTerminated.FromString(message.content)))
            return
        stopped_reason = self.history.stopped_reason  # A cancel ends a pause.
        event = messages.record(message)
        if event is None:
            return
        if message.kind is InboxKind.SIGNAL:
            runner = self._code.runner
            if runner is not None and not self.history.stopped:
                self._after_drive(self._code.drive(runner.signal_recorded, event.signal_received.name))
        elif message.kind is InboxKind.CANCEL:
            self._clean_up(stopped_reason)
        else:
            self._services.admission.guard.forgive(self.row.key)
            if self._faulted:
                self._pause(_ENGINE_FAULT, self._faulted, "")
            else:
                self.resume()

    def _clean_up(self, stopped_reason: int) -> None:
        """Cancel the code, which was stopped for this reason; end without clean-up if it cannot or must not run."""
        runner = self._code.runner
        quarantined = self.history.stopped == workflow_pb2.WORKFLOW_STATE_QUARANTINED
        cannot_run = quarantined or stopped_reason == _WORKFLOW_ERROR or not self._code.is_served
        if not (cannot_run or self._faulted or self._code.is_held):
            if runner is not None:
                self._after_drive(self._code.drive(runner.cancel_recorded))
                return
            self.resume()
            if self.closed or self.history.final is not None or not self.history.stopped:
                return
            # It was paused, and its code still cannot run.
        self._finish(closing.cancelled(self._builder, cut=list(self.history.open), deadline=False))

    # Committing.

    def flush(self) -> None:
        """Submit everything that has changed; called once per turn."""
        unit = self._unit
        if self.closed or unit.in_flight:
            return
        if self.history.last_sequence >= self._services.history_warning:
            self._check_history_limit()
        status = self._status()
        if unit.has_changes(status):
            self._services.committer.submit(unit.seal(status), self.on_commit)
            return
        self._arm_timer()
        self.rested = self._services.clock.monotonic()
        if self._result_came and self.idle:
            self._events.replay_failed(self)

    def _status(self) -> WorkflowStatus:
        history = self.history
        if (self._not_served or self._held) and not (history.stopped or history.final is not None or history.cancel):
            return closing.not_served(self.row.workflow_type) if self._not_served else closing.HELD
        wanted = None if self._code.runner is None else self._code.runner.wanted
        steps = self._steps
        return derive_status(
            history,
            busy=steps.busy,
            slot_waits=len(steps.waiting_for_slot),
            code_waits=steps.waiting_for_code,
            wanted=wanted,
        )

    def on_commit(self, change: Change, outcome: CommitOutcome) -> None:
        """Continue after the committer has decided the submitted change."""
        fresh = self._unit.guard is None
        sealed = self._unit.settle(change if outcome is CommitOutcome.COMMITTED else None)
        launches = sealed.launches
        try:
            if outcome is CommitOutcome.COMMITTED:
                self._events.committed(self, change, sealed.events, fresh=fresh)
                for effect in sealed.effects:
                    effect()
                if change.final:
                    self._events.closed(self, sealed.events[-1])
                else:
                    self._services.dispatcher.after_commit(self, launches)
                    launches = ()
            elif outcome is CommitOutcome.INBOX_NOT_EMPTY:
                self._unit.hold(sealed)
                self._services.inbox.read(self.row.key, lambda messages: self._resubmit(change, messages))
                launches = ()
            else:
                self.evict()
                self._events.conflicted(self, outcome)
        except BaseException as error:  # noqa: BLE001 - an internal error in one workflow must not stop the others
            self._events.faulted(self, error)
        if launches:
            self._steps.cancel_launches(launches)

    def _resubmit(self, change: Change, messages: Sequence[Message]) -> None:
        """Submit a final change once more, with the messages that arrived before it."""
        sealed = self._unit.settle(None)
        self._unit.add_late_messages(change, sealed, messages)
        self._unit.hold(sealed)
        self._services.committer.submit(change, self.on_commit)

    def fail(self, error: BaseException) -> None:
        """Handle an internal error in one of this execution's calls."""
        self._events.faulted(self, error)

    # Ending.

    def _check_history_limit(self) -> None:
        limit, history = self._services.settings.history_limit, self.history
        if history.final is not None:
            return
        # This leaves room for the events that close the open calls, and for the end itself.
        if history.last_sequence + 2 * len(history.open) + 8 >= limit:
            self._finish(closing.too_long(self._builder, limit))
        elif not self._history_warned:
            self._history_warned = True
            message = f"the history has {history.last_sequence} events; the workflow fails at {limit}"
            self._unit.raise_alert("history_near_limit", event_pb2.ALERT_SEVERITY_WARNING, message)

    def _finish(self, closed: Sequence[tuple[event_pb2.Event, event_pb2.Event]]) -> None:
        """Stop after the final event; the attempts that it closed are reported once it is committed."""
        for started, event in closed:
            self._steps.closed(started, event)
        self._stop_code()
        if self._steps.running:
            self._steps.cancel_all()

    def evict(self) -> None:
        """Evict this execution and discard everything not yet committed."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._progress is not None:
            self._progress.close()
            self._progress = None  # It refers to this execution, and only the garbage collector would free them.
        if self._steps.running:
            self._steps.abandon_all()
        launches = self._unit.discard()
        if launches:
            self._steps.cancel_launches(launches)
        self._stop_code()  # Last, because a `finally` of the code may raise.
