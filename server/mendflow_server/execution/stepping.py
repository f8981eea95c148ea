"""A workflow's attempts: when each one starts, what came of it, what it tells meanwhile.

A step that is awaited (`Run.wanted`) gets its next attempt once nothing is in
the way: its time has come, no earlier attempt's code still runs, the
supervisor does not hold it, a slot is free. What is in the way asks again when
it is gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.authoring.retry import RetryPolicy
from mendflow.authoring.step import Default
from mendflow.v1 import event_pb2, failure_pb2
from mendflow_server.attempts.attempts import Body, Order, Report, Slots
from mendflow_server.execution.held import Held
from mendflow_server.failures.retry import cancelled_failure, decide, lost_failure
from mendflow_server.history.timestamps import set_time
from mendflow_server.store.records import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.v1.payload_pb2 import Payload
    from mendflow_server.history.state import CallRecord

#: The least time between two reports or heartbeats on record, in seconds.
REPORT_INTERVAL = 1.0
#: What a lost attempt is judged by: it uses up no budget.
_UNLIMITED = RetryPolicy(max_attempts=None)


class Stepping(Held):
    """The part of an execution that deals with attempts."""

    __slots__ = ()

    def want_again(self, key: str) -> None:
        """A slot, a thread or the supervisor's turn has come for this step."""
        if self.run is not None and key in self.run.wanted:
            self._want(key)

    def _withdraw(self, key: str) -> None:
        """The code cancelled a step whose attempt is open. Its code may not run yet: its start may not be on disk."""
        body = self.bodies.get(key)
        record = self.history.open.get(key)
        if body is not None and record is not None and body.order.number == record.attempt:
            self._effects.append(body.cancel)
        else:
            self._withdrawn.add(key)

    def _want(self, key: str) -> None:
        """Start the next attempt of a step that is awaited, unless something is in its way."""
        record = self.history.open.get(key)
        if record is not None:
            due = record.next_attempt_time
            if record.started is not None or record.paused or (due is not None and due > self.builder.now):
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
            self._slot_waits[key] = None
            slots.waiting.append(lambda: self._slot_came(key, slots))
            return
        self._start_attempt(key, record, payload)

    def _slot_came(self, key: str, slots: Slots) -> bool:
        """A slot was taken for this step: answer whether it is still wanted."""
        if self._slot_waits.get(key, slots) is not None:
            return False
        self._slot_waits[key] = slots
        self.kernel.act(self, lambda: self._use_slot(key))
        return True

    def _use_slot(self, key: str) -> None:
        slots = self._slot_waits.get(key)
        if slots is not None:  # Else a pause has given it back, and the step may wait again.
            del self._slot_waits[key]
            slots.free += 1
            self.want_again(key)
            slots.offer()  # If it was not taken after all, the next in line has it.

    def _start_attempt(self, key: str, record: CallRecord | None, payload: Payload) -> None:
        if self.run is None:
            return
        step = self.run.wanted[key][0].step
        row = self.row
        event = self.builder.new()
        detail = event.attempt_started
        detail.step_key = key
        detail.step_name = step.name
        number = detail.attempt = 1 if record is None else record.attempt + 1
        if number == 1:
            if payload.WhichOneof("kind"):
                detail.input.CopyFrom(payload)
            idempotency_key = detail.idempotency_key = self.kernel.idempotency_key(row.uid, key)
        else:
            idempotency_key = self.history.calls[key].idempotency_key
        timeout = self.kernel.settings.attempt_timeout if isinstance(step.timeout, Default) else step.timeout
        deadline = None
        if timeout is not None:
            deadline = self.builder.now + timeout
            set_time(detail.deadline, deadline)
        self.builder.add(event)
        heartbeat = self._last_heartbeats.get(key, b"")
        # By place, in the order of `Order`: by name it takes twice as long.
        order = Order(
            step,
            row.workflow_id,
            row.workflow_type,
            key,
            number,
            payload,
            idempotency_key,
            timeout,
            deadline,
            heartbeat,
        )
        self._launches.append(order)

    def launch(self, orders: list[Order], ended: list[tuple[Held, Body]]) -> None:
        """Run attempts whose records are on disk, and empty the list; what was closed or withdrawn meanwhile gives its
        slot back.
        """
        for index, order in enumerate(orders):
            key = order.step_key
            record = self.history.open.get(key)
            closed = record is None or record.started is None or record.attempt != order.number
            if not (self.gone or closed or key in self._withdrawn):
                try:
                    context = self.kernel.attempt_context(self, key, order.number)
                    body = self.kernel.attempts.launch(order, self, context)
                except BaseException:
                    # A fault of our own ends this execution, and nobody else would give these back.
                    for left in orders[index:]:
                        self.kernel.attempts.slots_for(left.step).give()
                    orders.clear()
                    raise
                if body.at_once is None:
                    self.bodies[key] = body
                else:
                    ended.append((self, body))
                continue
            self.kernel.attempts.slots_for(order.step).give()
            if not self.gone and not closed:
                report = Report(None, cancelled_failure("the attempt was cancelled before its code ran"))
                self.kernel.act(self, lambda order=order, report=report: self._came_out(order, report))  # type: ignore[misc]
            self._withdrawn.discard(key)
        orders.clear()

    def ended_at_once(self, body: Body) -> None:
        """Take in what came of an attempt that ended at once."""
        if body.at_once is not None:
            self.builder.now = body.end_time
            self._attempt_reported(body, body.at_once)

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
        if body.heartbeat is not None or body.progress is not None:
            if self._open_record(body.order) is None:
                return
            self._take_news(body)
        self._came_out(body.order, report)

    def _open_record(self, order: Order) -> CallRecord | None:
        """Answer the record of this attempt while it is open; a terminate or the clean-up's deadline may close it."""
        record = self.history.open.get(order.step_key)
        if record is None or record.started is None or record.attempt != order.number:
            return None
        return record

    def _came_out(self, order: Order, report: Report) -> None:
        """Close an attempt, and let the code know if that decides its step."""
        record = self._open_record(order)
        if record is None or record.started is None:
            return
        key = order.step_key
        started = record.started
        if self._reported:
            self._reported.pop(key, None)
        event = self.builder.new()
        if report.failure is None:
            detail = event.attempt_succeeded
            detail.step_key = key
            detail.attempt = order.number
            if report.output is not None and report.output.WhichOneof("kind"):
                detail.output.CopyFrom(report.output)
            self.builder.add(event)
        else:
            self._fail_attempt(event, record, report, order)
        self._closed(started, event)
        run = self.run
        if record.outcome is not None:
            if run is not None:
                self._drive(run.outcome_recorded, key)
            elif self.history.stopped_reason == event_pb2.STATE_REASON_NON_DETERMINISM:
                self._retried = True

    def _fail_attempt(self, event: event_pb2.Event, record: CallRecord, report: Report, order: Order) -> None:
        """Close an attempt as failed, with the decision what follows."""
        if report.failure is None:
            return
        policy = order.step.retry
        failure = report.failure
        failure.step_key = record.key
        detail = event.attempt_failed
        detail.step_key = record.key
        detail.attempt = order.number
        detail.failure.CopyFrom(failure)
        # The code may have cancelled the step while the attempt failed by itself: nobody awaits a next one.
        withdrawn = self.run is not None and record.key not in self.run.wanted
        detail.decision.CopyFrom(
            decide(
                policy,
                cancelled_failure("") if withdrawn else failure,
                not_retried=report.not_retried,
                failed_attempts=record.failed_attempts + 1,
                first_attempt_time=self.builder.now if record.first_attempt_time is None else record.first_attempt_time,
                now=self.builder.now,
                jitter=self.kernel.jitter(),
            )
        )
        self.builder.add(event)
        self._effects.append(lambda: self.kernel.observer.attempt_failed(self.row, event))
        # Also one that is paused because of its code: that alone would be resumed without an operator.
        goes_on = self.history.stopped_reason in (0, event_pb2.STATE_REASON_NON_DETERMINISM)
        if detail.decision.action == failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW and goes_on:
            explanation = f"step {record.key}: {detail.decision.explanation} Last failure: {failure.message}"
            self._pause(event_pb2.STATE_REASON_RETRIES_EXHAUSTED, explanation, record.key)
        elif detail.decision.action == failure_pb2.RETRY_ACTION_RETRY:
            self.want_again(record.key)

    def _lose(self, record: CallRecord, why: str = "the process that ran this attempt ended before it did") -> None:
        """Close an attempt that was cut off by the end of its process, or by a fault of our own."""
        key = record.key
        started = record.started
        crashes = self.kernel.quarantined(self.row.key, key)
        held = not crashes and self.kernel.holds(self.row.key, key)
        event = self.builder.new()
        detail = event.attempt_failed
        detail.step_key = key
        detail.attempt = record.attempt
        detail.failure.CopyFrom(lost_failure(why))
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
                    first_attempt_time=self.builder.now,
                    now=self.builder.now,
                    jitter=0.0,
                )
            )
        self.builder.add(event)
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
        if self.kernel.suspects and closed.attempt_failed.failure.kind != failure_pb2.FAILURE_KIND_LOST:
            key = started.attempt_started.step_key
            self._effects.append(lambda: self.kernel.suspect_ended(self.row.key, key))

    # What an attempt tells of itself.

    def _attempt_heard(self, body: Body) -> None:
        if self.bodies.get(body.order.step_key) is not body or body.closed or self.history.final is not None:
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
            event = self.builder.new()
            detail = event.progress_reported
            detail.step_key, detail.attempt = key, body.order.number
            detail.done, detail.total, detail.message = body.progress
            body.progress = None
            self.builder.add(event)

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
        event = self.builder.new()
        detail = event.progress_reported
        detail.report, detail.done, detail.total, detail.message = run.progress
        run.progress = None
        self.builder.add(event)

    def _report_later(self) -> None:
        if self._report_timer is None:
            self._report_timer = self.kernel.limits.after(
                REPORT_INTERVAL, lambda: self.kernel.act(self, self._report_now)
            )

    def _report_now(self) -> None:
        self._report_timer = None
        if self.history.final is not None:
            return
        now = self.kernel.clock.monotonic()
        for key, body in self.bodies.items():
            if not body.closed and (body.heartbeat is not None or body.progress is not None):
                self._reported[key] = now
                self._take_news(body)
        self._report_progress(last=True)

    # What the execution does with it.

    def _drive(self, call: Callable[..., None], *arguments: object) -> None:
        """Let the code run, then act on what it asks for."""
        raise NotImplementedError

    def _pause(self, reason: event_pb2.StateReason.ValueType, explanation: str, step_key: str) -> None:
        """Stop, until an operator or other code lets it go on."""
        raise NotImplementedError

    def _quarantine(self, step_key: str, crashes: int) -> None:
        """Stop, for it keeps killing the server."""
        raise NotImplementedError
