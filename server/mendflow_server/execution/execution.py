"""One open workflow in memory: what happens to it becomes events, and commits become effects.

Theory of operation. Every input (an attempt's report, a timer, a message from
the inbox) becomes events in the builder; the run is driven as far as it goes;
what it asks for becomes more events; then one change with all of them goes to
the committer. Effects (an attempt's code, a cancel, a reply, a frame) are kept
in `_effects` and happen when that change is on disk, never before.

The row's generation and last sequence are the guard of each change. When it
turns out stale, another driver has the workflow, and all of this is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.errors import PayloadError
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.execution import closing
from mendflow_server.execution.stepping import Stepping
from mendflow_server.healing.engine_faults import NONE
from mendflow_server.history.timestamps import set_time
from mendflow_server.replay.rehearsal import rehearse
from mendflow_server.replay.workflow_runner import NonDeterminism, WorkflowRunner
from mendflow_server.store.records import InboxKind, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow_server.healing.engine_faults import Faulted
    from mendflow_server.store.records import Loaded


class Execution(Stepping):
    """An open workflow in memory."""

    __slots__ = ()

    # Beginning.

    def begin(self, argument: object) -> None:
        """Begin a new workflow, whose first event is in the builder."""
        self._make_run(argument)

    def take_over(self, loaded: Loaded, *, retry: bool, faulted: Faulted = NONE) -> None:
        """Go on with a workflow out of the store: close what was cut off, replay, go on.

        With ``retry`` it is resumed if it was paused because the code could not
        replay it, and the code of now can. ``faulted`` has the internal errors
        of the server for which it is loaded again; from the second on it is
        paused.
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
            event = self.builder.new()
            event.workflow_recovered.generation = self.row.generation
            event.workflow_recovered.replica_id = self.row.replica_id
            event.workflow_recovered.previous_replica_id = previous_replica_id
            self.builder.add(event)
        for record in cut_off:
            if faulted.times:
                self._lose(record, f"an internal error of the server ended this attempt: {faulted.error}")
            else:
                self._lose(record)
        crashes = self.kernel.quarantined(self.row.key, "")
        if crashes:
            self._quarantine("", crashes)
        if faulted.pauses:
            self._stop_after_faults(faulted.error)
        else:
            # Not what was stopped for another reason, perhaps just now.
            unfit = self.history.stopped_reason == event_pb2.STATE_REASON_NON_DETERMINISM
            if retry and unfit and self._could_go_on(loaded.events):
                event = self.builder.new()
                event.workflow_resumed.actor = "supervisor"
                event.workflow_resumed.reason = "the code that is served now can replay it"
                self.builder.add(event)
            self.go_on()
        for message in loaded.inbox:
            if not self.gone:
                self.take_in(message)
        self._faulted = ""

    def _stop_after_faults(self, error: str) -> None:
        """Stop without running any of its code: the server met an internal error of its own twice in a row."""
        self._faulted = (
            f"internal error of the server, twice in a row ({error}); search the server log for error_id "
            f"{self.row.uid}, then resume the workflow to try again"
        )
        if self.history.cancel:
            self._finish(closing.cancelled(self.builder, cut=list(self.history.open), deadline=False))
        elif not self.history.stopped:
            self._pause(event_pb2.STATE_REASON_ENGINE_FAULT, self._faulted, "")

    def _could_go_on(self, events: Sequence[bytes]) -> bool:
        """Return whether the code can replay the stored history. Nothing comes of trying."""
        if self.workflow is None or self.kernel.holds(self.row.key, ""):
            return False
        note = self.kernel.note
        note.enter(self.row.key)
        try:
            limit = self.kernel.settings.payload_limit
            return not rehearse(self.workflow, events, payload_limit=limit, now=self.builder.now).problem
        finally:
            note.leave()

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
            self._cannot_replay(f"the workflow's recorded input does not fit its type any more: {error}")
            return
        self._make_run(argument)

    def _make_run(self, argument: object) -> None:
        if self.workflow is None:
            return
        self.run = WorkflowRunner(
            self.workflow, self.builder, argument, payload_limit=self.kernel.settings.payload_limit
        )
        self._drive(self.run.begin)

    # Driving.

    def _drive(self, call: Callable[..., None], *arguments: object) -> None:
        """Run the code until it rests, then act on what it asks for.

        A drive is a transaction: what was in the builder before it stays, and
        what it added is taken back when the code cannot go on.
        """
        run = self.run
        if run is None:
            return
        before = len(self.builder.pending)
        note = self.kernel.note
        note.enter(self.row.key)
        try:
            call(*arguments)
        except NonDeterminism as error:
            self.builder.undo_to(before)
            self._cannot_replay(str(error))
            return
        finally:
            note.leave()
        if run.unwanted:
            for key in run.unwanted:
                self._withdraw(key)
            run.unwanted.clear()
        if run.done:
            self._end(run)
            return
        if run.newly_wanted:
            asked, run.newly_wanted = run.newly_wanted, []
            for key in asked:
                if key in run.wanted:
                    self._want(key)
        if run.progress is not None:
            self._report_progress()

    def _cannot_replay(self, explanation: str) -> None:
        """Stop: the code and the history do not agree. Attempts that run go on, and what comes of them is recorded.

        One that is being cancelled ends at the deadline of its clean-up, if no other code comes before.
        """
        self._pause(event_pb2.STATE_REASON_NON_DETERMINISM, explanation, "")

    def _pause(self, reason: event_pb2.StateReason.ValueType, explanation: str, step_key: str) -> None:
        event = self.builder.new()
        event.workflow_paused.reason = reason
        event.workflow_paused.explanation = explanation
        event.workflow_paused.step_key = step_key
        self.builder.add(event)
        name = event_pb2.StateReason.Name(reason).removeprefix("STATE_REASON_").lower()
        self._alert(f"workflow_paused_{name}", event_pb2.ALERT_SEVERITY_WARNING, explanation)
        self._drop_run()

    def _quarantine(self, step_key: str, crashes: int) -> None:
        what = f"step {step_key}" if step_key else "its workflow function"
        explanation = (
            f"the server died {crashes} times with {what} running alone; it is kept from running until it is resumed "
            "(mendflow resume) or terminated (mendflow terminate)"
        )
        event = self.builder.new()
        event.workflow_quarantined.step_key = step_key
        event.workflow_quarantined.crashes = crashes
        event.workflow_quarantined.explanation = explanation
        self.builder.add(event)
        self._alert("workflow_quarantined", event_pb2.ALERT_SEVERITY_CRITICAL, explanation)
        self._drop_run()

    # Time.

    def woken(self) -> None:
        """Its timer went off: let everything that is due happen."""
        self._timer = None
        now = self.builder.now
        if self.history.final is not None:
            return
        deadline = self.history.cleanup_deadline
        if deadline is not None and deadline <= now:
            self._finish(closing.cancelled(self.builder, cut=list(self.history.open), deadline=True))
            return
        if self.history.stopped:
            return
        self._fire_due(now)
        if self.run is not None:
            for key in list(self.run.wanted):
                self._want(key)

    def _fire_due(self, now: float) -> None:
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
            event = self.builder.new()
            if record.kind == "timer":
                event.timer_fired.key = key
            else:
                event.signal_timed_out.key = key
            self.builder.add(event)
            if self.run is not None:
                self._drive(self.run.outcome_recorded, key)
            if self.history.final is not None:
                return

    # Messages.

    def take_in(self, message: Message) -> None:
        """Take a message out of the inbox into the history."""
        if message.id in self._seen or self.history.final is not None:
            return
        self._seen.add(message.id)
        self._taken.append(message.id)
        if message.kind is InboxKind.SIGNAL:
            event = self.builder.new()
            event.signal_received.MergeFromString(message.content)
            self.builder.add(event)
            if self.run is not None and not self.history.stopped:
                self._drive(self.run.signal_recorded, event.signal_received.name)
        elif message.kind is InboxKind.CANCEL:
            self._take_cancel(message)
        elif message.kind is InboxKind.RESUME:
            self._take_resume(message)
        else:
            detail = event_pb2.WorkflowTerminated.FromString(message.content)
            self._finish(closing.terminated(self.builder, detail))

    def _take_cancel(self, message: Message) -> None:
        if self.history.cancel:
            return
        quarantined = self.history.stopped == workflow_pb2.WORKFLOW_STATE_QUARANTINED
        event = self.builder.new()
        event.cancel_requested.MergeFromString(message.content)
        set_time(event.cancel_requested.cleanup_deadline, self.builder.now + self.kernel.settings.cleanup_timeout)
        self.builder.add(event)
        self._effects.append(lambda: self.kernel.observer.operator_act(self.row, event))
        if quarantined or self.opaque or self._faulted or self.kernel.holds(self.row.key, ""):
            # Its code cannot or must not run, so there is no clean-up.
            self._finish(closing.cancelled(self.builder, cut=list(self.history.open), deadline=False))
        elif self.run is not None:
            self._drive(self.run.cancel_recorded)
        else:
            self.go_on()
            if self.history.stopped and self.history.final is None:
                # It was paused, and its code still cannot run: there is no clean-up to wait for.
                self._finish(closing.cancelled(self.builder, cut=list(self.history.open), deadline=False))

    def _take_resume(self, message: Message) -> None:
        if not self.history.stopped:
            return
        event = self.builder.new()
        event.workflow_resumed.MergeFromString(message.content)
        self.builder.add(event)
        self._effects.append(lambda: self.kernel.observer.operator_act(self.row, event))
        self.kernel.forgive(self.row.key)
        if self._faulted:
            self._pause(event_pb2.STATE_REASON_ENGINE_FAULT, self._faulted, "")
        else:
            self.go_on()

    # Ending.

    def _end(self, run: WorkflowRunner) -> None:
        """The code has returned or raised: the final event."""
        self._report_progress(last=True)
        self._finish(closing.of_run(self.builder, run, self.kernel.clock.time(), self.kernel.settings.payload_limit))

    def _near_history_limit(self) -> None:
        limit = self.kernel.settings.history_limit
        if self.history.final is not None:
            return
        # Room for what closes the open calls and for the end itself.
        if self.history.last_sequence + 2 * len(self.history.open) + 8 >= limit:
            self._finish(closing.too_long(self.builder, limit))
        elif not self._warned:
            self._warned = True
            message = f"the history has {self.history.last_sequence} events; at {limit} the workflow fails"
            self._alert("history_near_limit", event_pb2.ALERT_SEVERITY_WARNING, message)

    def _finish(self, closed: Sequence[tuple[event_pb2.Event, event_pb2.Event]]) -> None:
        """The final event is in the builder; attempts that it closed are told once it is on disk."""
        for started, event in closed:
            self._closed(started, event)
        self._drop_run()
        for body in self.bodies.values():
            self._effects.append(body.cancel)
