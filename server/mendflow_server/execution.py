"""One open workflow in memory: what happens to it becomes events, and commits become effects.

Theory of operation. Every input (an attempt's report, a timer, a message from
the inbox) becomes events in the journal; the run is driven as far as it goes;
what it asks for becomes more events; then one change with all of them goes to
the committer. Effects (an attempt's code, a cancel, a reply, a frame) are kept
in `_effects` and happen when that change is on disk, never before.

The row's generation and last sequence are the guard of each change. When it
turns out stale, another driver has the workflow, and all of this is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mendflow.errors import PayloadError
from mendflow.retry import RetryPolicy
from mendflow.step import Default
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server import endings
from mendflow_server.attempts import Body, Listener, Order, Report
from mendflow_server.history import History, seconds, set_time
from mendflow_server.journal import Journal
from mendflow_server.retry import decide, lost_failure
from mendflow_server.run import NonDeterminism, Run
from mendflow_server.states import State, state_of, wake_time
from mendflow_server.store.protocol import Alert, Change, Guard, Heartbeat, InboxKind, Message, Row, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow.v1.payload_pb2 import Payload
    from mendflow.workflow import Workflow
    from mendflow_server.history import CallRecord
    from mendflow_server.kernel import Kernel
    from mendflow_server.store.protocol import Loaded
    from mendflow_server.timers import Timer

#: At this part of the history limit an alert is raised.
HISTORY_WARNING = 0.8
#: The least time between two reports or heartbeats on record, in seconds.
REPORT_INTERVAL = 1.0
#: What a lost attempt is judged by: it uses up no budget.
_UNLIMITED = RetryPolicy(max_attempts=None)


class Execution(Listener):
    """An open workflow in memory."""

    def __init__(
        self,
        kernel: Kernel,
        row: Row,
        history: History,
        *,
        guard: Guard | None,
        workflow: Workflow[Any, Any] | None,
    ) -> None:
        self.kernel = kernel
        #: The newest row on disk; for a new workflow, the first that will be.
        self.row = row
        self.guard = guard
        self.history = history
        self.journal = Journal(history)
        #: None: no server of this kind can run it.
        self.workflow = workflow
        self.run: Run | None = None
        self.bodies: dict[str, Body] = {}
        #: Dropped: nothing may come of it any more.
        self.gone = False
        #: Why it is loaded again, to be stopped.
        self.stop_reason = ""
        self.in_commit = False
        #: When it last came to rest, by the monotonic clock.
        self.rested = 0.0
        self._effects: list[Callable[[], None]] = []
        self._launches: list[Order] = []
        self._taken: list[int] = []
        self._seen: set[int] = set()
        self._heartbeats: dict[str, Heartbeat] = {}
        self._last_heartbeats: dict[str, bytes] = {}
        self._alerts: list[Alert] = []
        self._slot_waits: set[str] = set()
        self._busy = False
        self._held = False
        self._not_served = False
        self._unreplayable = False
        self._warned = False
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._reported: dict[str, float] = {}
        self._report_timer: Timer | None = None

    # Beginning.

    @property
    def idle(self) -> bool:
        """Whether it could be dropped and rebuilt without any loss."""
        return not (
            self.in_commit
            or self.bodies
            or self._slot_waits
            or self._busy
            or self._report_timer is not None
            or self.journal.pending
        )

    @property
    def opaque(self) -> bool:
        """Whether its code cannot run here: the type is not served, or an event is not understood."""
        return self.workflow is None

    def begin(self, argument: object) -> None:
        """Begin a new workflow, whose first event is in the journal."""
        self._make_run(argument)

    def take_over(self, loaded: Loaded, *, stop: str, retry: bool) -> None:
        """Go on with a workflow out of the store: close what was cut off, replay, go on.

        ``stop`` says why its code must not be replayed (empty: it may be);
        with ``retry`` it is, though it was paused because it could not be.
        """
        previous_replica_id, state = loaded.row.replica_id, loaded.row.state
        self._last_heartbeats = {heartbeat.step_key: heartbeat.details for heartbeat in loaded.heartbeats}
        cut_off = self.history.open_attempts()
        moving = (
            workflow_pb2.WORKFLOW_STATE_PENDING,
            workflow_pb2.WORKFLOW_STATE_RUNNING,
            workflow_pb2.WORKFLOW_STATE_CANCELLING,
        )
        if previous_replica_id != self.row.replica_id and (cut_off or state in moving):
            event = self.journal.new()
            event.workflow_recovered.generation = self.row.generation
            event.workflow_recovered.replica_id = self.row.replica_id
            event.workflow_recovered.previous_replica_id = previous_replica_id
            self.journal.add(event)
        for record in cut_off:
            self._lose(record)
        crashes = self.kernel.quarantined(self.row.key, "")
        if crashes:
            self._quarantine("", crashes)
        if stop:
            self._stop(stop)
        else:
            if retry and self.history.stopped:
                event = self.journal.new()
                event.workflow_resumed.actor = "supervisor"
                event.workflow_resumed.reason = "other code may be able to replay it"
                self.journal.add(event)
            self.go_on()
        for message in loaded.inbox:
            if not self.gone:
                self.take_in(message)

    def _stop(self, explanation: str) -> None:
        self._unreplayable = True
        if self.history.cancel and self.history.final is None:
            self._finish(endings.cancelled(self.journal, cut=list(self.history.open), deadline=False))
        elif not self.history.stopped:
            self._pause(event_pb2.STATE_REASON_NON_DETERMINISM, explanation, "")

    def go_on(self) -> None:
        """Replay what is recorded and go on, if its code may run."""
        if self.history.final is not None or self.history.stopped:
            return
        if self.opaque:
            self._not_served = True
        elif self.kernel.holds(self.row.key, ""):
            self._held = True
        elif self.run is None:
            self._held = False
            self._replay()

    def _replay(self) -> None:
        started = self.history.started
        if started is None or self.workflow is None:
            return
        detail = started.workflow_started
        try:
            value_type = self.workflow.input_type
            argument = (
                None if value_type is None else value_type.decode(detail.input if detail.HasField("input") else None)
            )
        except PayloadError as error:
            self._cannot_replay(f"the recorded input does not fit the type any more: {error}")
            return
        self._make_run(argument)

    def _make_run(self, argument: object) -> None:
        if self.workflow is None:
            return
        self.run = Run(self.workflow, self.journal, argument, payload_limit=self.kernel.settings.payload_limit)
        self._drive(self.run.begin)

    # Driving.

    def _drive(self, call: Callable[[], None]) -> None:
        """Let the code run, then act on what it asks for."""
        run = self.run
        if run is None:
            return
        kernel = self.kernel
        kernel.note.enter(self.row.key)
        try:
            call()
        except NonDeterminism as error:
            self._cannot_replay(str(error))
            return
        finally:
            kernel.note.leave()
        for key in run.unwanted:
            body = self.bodies.get(key)
            if body is not None:
                self._effects.append(body.cancel)
        run.unwanted.clear()
        if run.done:
            self._end(run)
            return
        if run.wanted:
            for key in list(run.wanted):
                self._want(key)
        if run.progress is not None:
            self._report_progress()
        if self.history.last_sequence >= HISTORY_WARNING * kernel.settings.history_limit:
            self._near_history_limit()

    def _cannot_replay(self, explanation: str) -> None:
        """Stop: the code and the history do not agree. What the code asked for meanwhile is forgotten.

        The fold cannot be undone, so the workflow is loaded again, to be stopped.
        """
        self.kernel.reload(self, explanation)

    def _pause(self, reason: event_pb2.StateReason.ValueType, explanation: str, step_key: str) -> None:
        event = self.journal.new()
        event.workflow_paused.reason = reason
        event.workflow_paused.explanation = explanation
        event.workflow_paused.step_key = step_key
        self.journal.add(event)
        name = event_pb2.StateReason.Name(reason).removeprefix("STATE_REASON_").lower()
        self._alert(f"workflow_paused_{name}", event_pb2.ALERT_SEVERITY_WARNING, explanation)
        self._drop_run()

    def _quarantine(self, step_key: str, crashes: int) -> None:
        what = f"step {step_key}" if step_key else "its workflow function"
        explanation = (
            f"the server died {crashes} times with {what} running alone; it is kept from running until it is resumed "
            "(mendflow resume) or terminated (mendflow terminate)"
        )
        event = self.journal.new()
        event.workflow_quarantined.step_key = step_key
        event.workflow_quarantined.crashes = crashes
        event.workflow_quarantined.explanation = explanation
        self.journal.add(event)
        self._alert("workflow_quarantined", event_pb2.ALERT_SEVERITY_CRITICAL, explanation)
        self._drop_run()

    def _alert(self, name: str, severity: event_pb2.AlertSeverity.ValueType, message: str) -> None:
        event = self.journal.new()
        event.alert_raised.name = name
        event.alert_raised.severity = severity
        event.alert_raised.message = message
        self.journal.add(event)
        self._alerts.append(Alert(round(self.journal.now * 1e6), name, severity, message))

    def _drop_run(self) -> None:
        if self.run is not None:
            self.run.close()
            self.run = None

    # Attempts.

    def want_again(self, key: str) -> None:
        """A slot, a thread or the supervisor's turn has come for this step."""
        self._slot_waits.discard(key)
        if self.run is not None and key in self.run.wanted:
            self._want(key)

    def _want(self, key: str) -> None:
        """Start the next attempt of a step that is awaited, unless something is in its way."""
        record = self.history.open.get(key)
        if record is not None:
            due = record.next_attempt_time
            if record.started is not None or record.paused or (due is not None and due > self.journal.now):
                return
            if record.held and self.kernel.holds(self.row.key, key):
                return
        if self.run is None or key in self._slot_waits:
            return
        call, payload = self.run.wanted[key]
        body = self.bodies.get(key)
        if body is not None and not call.step.overlap:
            return  # Its code still runs: `ended` asks again.
        if self.kernel.draining:
            self._busy = True
            return
        slots = self.kernel.attempts.slots_for(call.step)
        if not slots.take():
            self._slot_waits.add(key)
            slots.waiting.append(lambda: self._slot_came(key))
            return
        self._start_attempt(key, record, payload)

    def _slot_came(self, key: str) -> bool:
        """A slot may be free: answer whether it is still wanted."""
        if self.gone or key not in self._slot_waits:
            return False
        self.kernel.act(self, lambda: self.want_again(key))
        return True

    def _start_attempt(self, key: str, record: CallRecord | None, payload: Payload) -> None:
        if self.run is None:
            return
        step = self.run.wanted[key][0].step
        event = self.journal.new()
        detail = event.attempt_started
        detail.step_key = key
        detail.step_name = step.name
        number = detail.attempt = 1 if record is None else record.attempt + 1
        if record is None or record.attempt == 0:
            if payload.WhichOneof("kind"):
                detail.input.CopyFrom(payload)
            detail.idempotency_key = self.kernel.idempotency_key(self.row.uid, key)
        timeout = self.kernel.settings.attempt_timeout if isinstance(step.timeout, Default) else step.timeout
        deadline = None
        if timeout is not None:
            set_time(detail.deadline, self.journal.now + timeout)
            deadline = datetime.fromtimestamp(self.journal.now + timeout, UTC)
        self.journal.add(event)
        order = Order(
            step=step,
            workflow_id=self.row.workflow_id,
            workflow_type=self.row.workflow_type,
            step_key=key,
            number=number,
            input=payload,
            idempotency_key=self.history.calls[key].idempotency_key,
            timeout=timeout,
            deadline=deadline,
            last_heartbeat=self._last_heartbeats.get(key, b""),
            context=self.kernel.attempt_context(self, key, number),
        )
        self._launches.append(order)

    def _launch(self, orders: list[Order]) -> None:
        """Run attempts whose records are on disk; if this was dropped meanwhile, give their slots back."""
        for order in orders:
            if self.gone:
                self.kernel.attempts.slots_for(order.step).give()
            else:
                self.bodies[order.step_key] = self.kernel.attempts.launch(order, self)

    def reported(self, body: Body, report: Report) -> None:
        """An attempt came out (`Listener`)."""
        self.kernel.act(self, lambda: self._attempt_reported(body, report))

    def ended(self, body: Body) -> None:
        """An attempt's code has ended (`Listener`)."""
        self.kernel.act(self, lambda: self._body_ended(body))

    def heard(self, body: Body) -> None:
        """An attempt has news of itself (`Listener`)."""
        self.kernel.act(self, lambda: self._attempt_heard(body))

    def _body_ended(self, body: Body) -> None:
        key = body.order.step_key
        if self.bodies.get(key) is body:
            del self.bodies[key]
            self.want_again(key)

    def _attempt_reported(self, body: Body, report: Report) -> None:
        key = body.order.step_key
        record = self.history.open.get(key)
        if record is None or record.started is None or record.attempt != body.order.number:
            return  # It was closed otherwise: by a terminate, or by the clean-up's deadline.
        self._take_news(body)
        self._reported.pop(key, None)
        started = record.started
        event = self.journal.new()
        if report.failure is None:
            event.attempt_succeeded.step_key = key
            event.attempt_succeeded.attempt = body.order.number
            if report.output is not None and report.output.WhichOneof("kind"):
                event.attempt_succeeded.output.CopyFrom(report.output)
            self.journal.add(event)
        else:
            self._fail_attempt(event, record, report, body)
        self._closed(started, event)
        if record.outcome is not None and self.run is not None:
            run = self.run
            self._drive(lambda: run.outcome_recorded(key))

    def _fail_attempt(self, event: event_pb2.Event, record: CallRecord, report: Report, body: Body) -> None:
        """Close an attempt as failed, with the decision what follows."""
        if report.failure is None:
            return
        policy = body.order.step.retry
        failure = report.failure
        failure.step_key = record.key
        detail = event.attempt_failed
        detail.step_key = record.key
        detail.attempt = body.order.number
        detail.failure.CopyFrom(failure)
        detail.decision.CopyFrom(
            decide(
                policy,
                failure,
                not_retried=report.not_retried,
                failed_attempts=record.failed_attempts + 1,
                first_attempt_time=self.journal.now if record.first_attempt_time is None else record.first_attempt_time,
                now=self.journal.now,
                jitter=self.kernel.jitter(),
            )
        )
        self.journal.add(event)
        self._effects.append(lambda: self.kernel.observer.attempt_failed(self.row, event))
        if detail.decision.action == failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW and not self.history.stopped:
            explanation = f"step {record.key}: {detail.decision.explanation} Last failure: {failure.message}"
            self._pause(event_pb2.STATE_REASON_RETRIES_EXHAUSTED, explanation, record.key)
        elif detail.decision.action == failure_pb2.RETRY_ACTION_RETRY:
            self.want_again(record.key)

    def _lose(self, record: CallRecord) -> None:
        """Close an attempt that died with its process."""
        key = record.key
        started = record.started
        crashes = self.kernel.quarantined(self.row.key, key)
        held = not crashes and self.kernel.holds(self.row.key, key)
        event = self.journal.new()
        detail = event.attempt_failed
        detail.step_key = key
        detail.attempt = record.attempt
        detail.failure.CopyFrom(lost_failure("the process that ran this attempt ended before it did"))
        detail.failure.step_key = key
        decision = detail.decision
        if crashes:
            decision.action = failure_pb2.RETRY_ACTION_QUARANTINE_WORKFLOW
            decision.reason = failure_pb2.RETRY_REASON_CRASH_BUDGET
            decision.explanation = f"The server died {crashes} times with this step running alone."
        elif held:
            decision.action = failure_pb2.RETRY_ACTION_RETRY
            decision.reason = failure_pb2.RETRY_REASON_SUSPECTED
            decision.explanation = (
                "In flight at two deaths of the server in a row: the next attempt waits for its turn."
            )
        else:
            decision.CopyFrom(
                decide(
                    _UNLIMITED,
                    detail.failure,
                    not_retried=False,
                    failed_attempts=record.failed_attempts,
                    first_attempt_time=self.journal.now,
                    now=self.journal.now,
                    jitter=0.0,
                )
            )
        self.journal.add(event)
        self._effects.append(lambda: self.kernel.observer.attempt_failed(self.row, event))
        if started is not None:
            self._closed(started, event)
        if crashes:
            self._quarantine(key, crashes)

    def hand_over(self) -> None:
        """The process ends: close what runs on the loop as lost. A workflow whose thread runs stays as it is."""
        bodies = [body for body in self.bodies.values() if not body.closed]
        if any(not body.order.step.is_async for body in bodies):
            return
        self._busy = True
        for body in bodies:
            record = self.history.open.get(body.order.step_key)
            if record is not None and record.started is not None:
                self._take_news(body)
                self._lose(record)
            body.abandon()

    def _closed(self, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        if self.kernel.observer.traces:
            self._effects.append(lambda: self.kernel.observer.attempt_closed(self.row, self.history, started, closed))
        # A lost attempt says nothing for its step: the next one has still to show that it does not kill.
        lost = closed.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
        if self.kernel.suspects and not lost:
            key = started.attempt_started.step_key
            self._effects.append(lambda: self.kernel.suspect_ended(self.row.key, key))

    # What an attempt tells of itself.

    def _attempt_heard(self, body: Body) -> None:
        if self.bodies.get(body.order.step_key) is not body or body.closed:
            return
        last = self._reported.get(body.order.step_key)
        now = self.kernel.clock.monotonic()
        if last is None or now - last >= REPORT_INTERVAL:
            self._reported[body.order.step_key] = now
            self._take_news(body)
        else:
            self._report_later()

    def _take_news(self, body: Body) -> None:
        """Put an attempt's newest heartbeat and progress on record."""
        key = body.order.step_key
        if body.heartbeat is not None:
            self._last_heartbeats[key] = body.heartbeat
            self._heartbeats[key] = Heartbeat(key, body.order.number, body.heartbeat)
            body.heartbeat = None
        if body.progress is not None:
            event = self.journal.new()
            detail = event.progress_reported
            detail.step_key, detail.attempt = key, body.order.number
            detail.done, detail.total, detail.message = body.progress
            body.progress = None
            self.journal.add(event)

    def _report_progress(self, *, last: bool = False) -> None:
        """Put the workflow's own newest progress on record, at most one a second, and the last."""
        run = self.run
        if run is None or run.progress is None:
            return
        now = self.kernel.clock.monotonic()
        before = self._reported.get("")
        if not last and before is not None and now - before < REPORT_INTERVAL:
            self._report_later()
            return
        self._reported[""] = now
        event = self.journal.new()
        detail = event.progress_reported
        detail.report, detail.done, detail.total, detail.message = run.progress
        run.progress = None
        self.journal.add(event)

    def _report_later(self) -> None:
        if self._report_timer is None:
            self._report_timer = self.kernel.limits.after(
                REPORT_INTERVAL, lambda: self.kernel.act(self, self._report_now)
            )

    def _report_now(self) -> None:
        self._report_timer = None
        now = self.kernel.clock.monotonic()
        for key, body in self.bodies.items():
            if not body.closed and (body.heartbeat is not None or body.progress is not None):
                self._reported[key] = now
                self._take_news(body)
        self._report_progress(last=True)

    # Time.

    def woken(self) -> None:
        """Its timer went off: let everything that is due happen."""
        self._timer = None
        now = self.journal.now
        if self.history.stopped or self.history.final is not None:
            return
        deadline = self.history.cleanup_deadline
        if deadline is not None and deadline <= now:
            self._finish(endings.cancelled(self.journal, cut=list(self.history.open), deadline=True))
            return
        due = [
            (record.wake_time, key)
            for key, record in self.history.open.items()
            if record.wake_time is not None and record.wake_time <= now
        ]
        for _, key in sorted(due):
            record = self.history.open.get(key)
            if record is None:
                continue
            event = self.journal.new()
            if record.kind == "timer":
                event.timer_fired.key = key
            else:
                event.signal_timed_out.key = key
            self.journal.add(event)
            run = self.run
            if run is not None:
                self._drive(lambda run=run, key=key: run.outcome_recorded(key))  # type: ignore[misc]
        if self.run is not None:
            for key in list(self.run.wanted):
                self._want(key)

    def _set_timer(self) -> None:
        wake = None if self.history.stopped or (self.opaque and not self.history.cancel) else wake_time(self.history)
        if wake is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if self._timer is not None:
            if self._timer_at == wake:
                return
            self._timer.cancel()
        self._timer_at = wake
        self._timer = self.kernel.timers.at(wake, lambda: self.kernel.act(self, self.woken))

    # Messages.

    def take_in(self, message: Message) -> None:
        """Take a message out of the inbox into the history."""
        if message.id in self._seen or self.history.final is not None:
            return
        self._seen.add(message.id)
        self._taken.append(message.id)
        if message.kind is InboxKind.SIGNAL:
            event = self.journal.new()
            event.signal_received.MergeFromString(message.content)
            self.journal.add(event)
            name = event.signal_received.name
            if self.run is not None and not self.history.stopped:
                run = self.run
                self._drive(lambda: run.signal_recorded(name))
        elif message.kind is InboxKind.CANCEL:
            self._take_cancel(message)
        elif message.kind is InboxKind.RESUME:
            self._take_resume(message)
        else:
            detail = event_pb2.WorkflowTerminated.FromString(message.content)
            self._finish(endings.terminated(self.journal, detail))

    def _take_cancel(self, message: Message) -> None:
        if self.history.cancel:
            return
        quarantined = self.history.stopped == workflow_pb2.WORKFLOW_STATE_QUARANTINED
        event = self.journal.new()
        event.cancel_requested.MergeFromString(message.content)
        set_time(event.cancel_requested.cleanup_deadline, self.journal.now + self.kernel.settings.cleanup_timeout)
        self.journal.add(event)
        self._effects.append(lambda: self.kernel.observer.operator_act(self.row, event))
        if quarantined or self.opaque or self._unreplayable or self.kernel.holds(self.row.key, ""):
            # Its code cannot or must not run, so there is no clean-up.
            self._finish(endings.cancelled(self.journal, cut=list(self.history.open), deadline=False))
        elif self.run is not None:
            self._drive(self.run.cancel_recorded)
        else:
            self.go_on()

    def _take_resume(self, message: Message) -> None:
        if not self.history.stopped:
            return
        event = self.journal.new()
        event.workflow_resumed.MergeFromString(message.content)
        self.journal.add(event)
        self._effects.append(lambda: self.kernel.observer.operator_act(self.row, event))
        self.kernel.forgive(self.row.key)
        self.go_on()

    # Ending.

    def _end(self, run: Run) -> None:
        """The code has returned or raised: the final event."""
        self._report_progress(last=True)
        self._finish(endings.of_run(self.journal, run, self.kernel.clock.time(), self.kernel.settings.payload_limit))

    def _near_history_limit(self) -> None:
        limit = self.kernel.settings.history_limit
        # Room for what closes the open calls and for the end itself.
        if self.history.last_sequence + 2 * len(self.history.open) + 8 >= limit:
            self._finish(endings.too_long(self.journal, limit))
        elif not self._warned:
            self._warned = True
            message = f"the history has {self.history.last_sequence} events; at {limit} the workflow fails"
            self._alert("history_near_limit", event_pb2.ALERT_SEVERITY_WARNING, message)

    def _finish(self, closed: Sequence[tuple[event_pb2.Event, event_pb2.Event]]) -> None:
        """The final event is in the journal; attempts that it closed are told once it is on disk."""
        for started, event in closed:
            self._closed(started, event)
        self._drop_run()
        for body in self.bodies.values():
            self._effects.append(body.cancel)

    # Committing.

    def flush(self) -> None:
        """Send what has gathered to the committer."""
        if self.in_commit or self.gone:
            return
        pending = self.journal.pending
        if not pending and not self._heartbeats and not self._taken and not self._row_differs():
            self._set_timer()
            self.rested = self.kernel.clock.monotonic()
            return
        self.journal.pending = []
        row = self._next_row()
        change = Change(
            row=row,
            guard=self.guard,
            events=[(event.sequence, event.SerializeToString()) for event in pending],
            taken=tuple(self._taken),
            heartbeats=tuple(self._heartbeats.values()),
            alerts=tuple(self._alerts),
            final=self.history.final is not None,
        )
        cause = Cause(pending, self._effects, self._launches)
        self._effects, self._launches, self._taken, self._heartbeats, self._alerts = [], [], [], {}, []
        self.in_commit = True
        self.kernel.committer.change(change, lambda change, verdict: self._decided(change, verdict, cause))

    def _row_differs(self) -> bool:
        state = self._state()
        return state.state != self.row.state or state.reason != self.row.reason

    def _state(self) -> State:
        if self._not_served and not self.history.stopped and self.history.final is None and not self.history.cancel:
            return endings.not_served(self.row.workflow_type)
        if self._held and not self.history.stopped and self.history.final is None and not self.history.cancel:
            return endings.HELD
        return state_of(self.history, busy=self._busy, slot_waits=len(self._slot_waits))

    def _next_row(self) -> Row:
        row, state = self.row, self._state()
        final = self.history.final
        return Row(
            key=row.key,
            workflow_id=row.workflow_id,
            uid=row.uid,
            workflow_type=row.workflow_type,
            state=state.state,
            reason=state.reason,
            explanation=state.explanation,
            generation=row.generation,
            replica_id=row.replica_id,
            last_sequence=self.history.last_sequence,
            wake_time=None if state.wake is None else round(state.wake * 1e6),
            create_time=row.create_time,
            end_time=None if final is None else round(seconds(final.time) * 1e6),
            untaken_signals=self.history.untaken_signals,
            trace_id=row.trace_id,
            labels=row.labels,
        )

    def _decided(self, change: Change, verdict: Verdict, cause: Cause) -> None:
        """The committer's answer."""
        self.in_commit = False
        if verdict is Verdict.INBOX:
            self.in_commit = True
            self.kernel.read_inbox(self, lambda messages: self._resend(change, cause, messages))
            return
        if verdict is not Verdict.DONE:
            self.drop()
            self._launch(cause.launches)
            if verdict is Verdict.TAKEN:
                self.kernel.taken(self)
            else:
                self.kernel.lost(self)
            return
        fresh = self.guard is None
        self.row = change.row
        self.guard = Guard(change.row.generation, change.row.last_sequence)
        self.kernel.committed(self, change, cause.events, fresh=fresh)
        for effect in cause.effects:
            effect()
        self._launch(cause.launches)
        if change.final:
            self.kernel.finished(self, cause.events[-1])
        else:
            self.kernel.touch(self)

    def _resend(self, change: Change, cause: Cause, messages: list[Message]) -> None:
        """Messages arrived before the end: they come into the history before it, undelivered."""
        final = cause.events.pop()
        taken = list(change.taken)
        for message in messages:
            if message.id in taken:
                continue
            taken.append(message.id)
            event = endings.undelivered(message, final)
            if event is not None:
                cause.events.append(event)
                final.sequence += 1
        cause.events.append(final)
        self.history.last_sequence = final.sequence
        change.events = [(event.sequence, event.SerializeToString()) for event in cause.events]
        change.taken = tuple(taken)
        change.row.last_sequence = final.sequence
        self.kernel.committer.change(change, lambda change, verdict: self._decided(change, verdict, cause))

    def drop(self) -> None:
        """Let go of it: nothing that is not on disk may take effect any more."""
        self.gone = True
        self._drop_run()
        for timer in (self._timer, self._report_timer):
            if timer is not None:
                timer.cancel()
        for body in list(self.bodies.values()):
            body.abandon()
        launches, self._launches = self._launches, []
        self._launch(launches)


@dataclass(slots=True, frozen=True)
class Cause:
    """What a change on its way to the disk has in it, and what follows once it is there."""

    events: list[event_pb2.Event]
    effects: list[Callable[[], None]]
    launches: list[Order]
