"""The state of a workflow, computed from its events.

The law: everything the engine knows about a workflow is the fold of its
events, in order. Live execution and replay apply the same events through the
same `History.apply`, so a rebuilt history cannot differ from the one it
replaces.

A *call* is what workflow code awaits: a step, a timer or a signal wait. Its key
names it. Its *outcome* is the one event with its result; the outcome's sequence
is the point at which workflow code learns of it. A failed attempt that will be
retried is not an outcome.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.history.timestamps import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mendflow.v1.payload_pb2 import Payload

#: A workflow in one of these states was running when its process ended.
MOVING_STATES = frozenset(
    {
        workflow_pb2.WORKFLOW_STATE_PENDING,
        workflow_pb2.WORKFLOW_STATE_RUNNING,
        workflow_pb2.WORKFLOW_STATE_CANCELLING,
    }
)
FINAL_STATES = frozenset(
    {
        workflow_pb2.WORKFLOW_STATE_SUCCEEDED,
        workflow_pb2.WORKFLOW_STATE_FAILED,
        workflow_pb2.WORKFLOW_STATE_CANCELLED,
        workflow_pb2.WORKFLOW_STATE_TERMINATED,
    }
)

FINAL_DETAILS = {
    "workflow_succeeded": workflow_pb2.WORKFLOW_STATE_SUCCEEDED,
    "workflow_failed": workflow_pb2.WORKFLOW_STATE_FAILED,
    "workflow_cancelled": workflow_pb2.WORKFLOW_STATE_CANCELLED,
    "workflow_terminated": workflow_pb2.WORKFLOW_STATE_TERMINATED,
}


#: How messages name each kind of call.
_LABELS = {"step": "step", "timer": "timer", "signal": "signal wait", "value": "value", "": "withdrawn call"}


class UnknownEvent(Exception):
    """A newer version wrote an event of a kind that this one does not know."""


class CallRecord:
    """The state of one call."""

    __slots__ = (
        "attempt",
        "failed_attempts",
        "first_started",
        "held",
        "idempotency_key",
        "input",
        "key",
        "kind",
        "name",
        "next_attempt_time",
        "outcome",
        "paused",
        "sequence",
        "started",
        "wake_time",
    )

    def __init__(self, key: str, kind: str, name: str, sequence: int) -> None:
        self.key = key
        #: The sequence of the event that opened the call.
        self.sequence = sequence
        #: "step", "timer", "signal", "value", or "" if the call was cancelled before it was recorded.
        self.kind = kind
        #: The name of the step or signal.
        self.name = name
        self.outcome: event_pb2.Event | None = None
        #: When a timer or a signal wait is due; None if the call has no such time.
        self.wake_time: float | None = None
        # The fields of a step.
        self.input: Payload | None = None
        self.idempotency_key = ""
        #: The number of the newest attempt.
        self.attempt = 0
        #: The AttemptStarted event of the open attempt.
        self.started: event_pb2.Event | None = None
        self.failed_attempts = 0
        #: The AttemptStarted event from which the total time of the attempts counts.
        self.first_started: event_pb2.Event | None = None
        #: When the next attempt is due; None if no attempt is scheduled.
        self.next_attempt_time: float | None = None
        #: Whether the next attempt waits until the supervisor releases it.
        self.held = False
        #: Whether its retries are exhausted or it is quarantined. Resuming the workflow clears this.
        self.paused = False

    @property
    def label(self) -> str:
        """How messages name the call: its kind and key, and its name unless the key contains it."""
        name = f" ({self.name})" if self.name and self.name not in self.key else ""
        return f"{_LABELS[self.kind]} {self.key}{name}"

    @property
    def first_attempt_time(self) -> float | None:
        """When the first attempt that counts started, in seconds since the epoch; None if there is none."""
        return None if self.first_started is None else seconds(self.first_started.time)


class History:
    """The fold of a workflow's events: everything the engine knows about the workflow."""

    __slots__ = (
        "calls",
        "cancel",
        "cleanup_deadline",
        "final",
        "last_sequence",
        "mailbox",
        "open",
        "reports",
        "signals",
        "started",
        "stopped",
        "stopped_explanation",
        "stopped_reason",
    )

    def __init__(self) -> None:
        self.last_sequence = 0
        #: The first event.
        self.started: event_pb2.Event | None = None
        #: The final event.
        self.final: event_pb2.Event | None = None
        self.calls: dict[str, CallRecord] = {}
        #: The calls that have no outcome.
        self.open: dict[str, CallRecord] = {}
        #: Signals by sequence.
        self.signals: dict[int, event_pb2.SignalReceived] = {}
        #: The sequences of untaken signals in order, by name.
        self.mailbox: dict[str, deque[int]] = {}
        #: The sequence of the CancelRequested event; 0 if there is none.
        self.cancel = 0
        self.cleanup_deadline: float | None = None
        #: PAUSED or QUARANTINED; 0 if the workflow is not stopped.
        self.stopped = 0
        self.stopped_reason = 0
        self.stopped_explanation = ""
        #: The number of the workflow's own progress reports.
        self.reports = 0

    @classmethod
    def of(cls, events: Iterable[bytes]) -> History:
        """Return the history of stored events. Raise `UnknownEvent`."""
        history = cls()
        for data in events:
            history.apply(event_pb2.Event.FromString(data))
        return history

    @property
    def untaken_signals(self) -> int:
        """The number of signals that no wait has taken."""
        return sum(map(len, self.mailbox.values())) if self.mailbox else 0

    def apply(self, event: event_pb2.Event) -> None:
        """Apply the next event. Raise `UnknownEvent` if its kind is not known."""
        detail = event.WhichOneof("detail")
        fold = _FOLDS.get(detail or "")
        if fold is None:
            msg = f"event {event.sequence} has a kind that this version does not know; upgrade the server"
            raise UnknownEvent(msg)
        fold(self, event)
        self.last_sequence = event.sequence

    def undo(self, event: event_pb2.Event) -> None:
        """Undo the newest event. Workflow code added it: a call, a cancelled call, a taken signal or a value."""
        _UNDOS[event.WhichOneof("detail") or ""](self, event)
        self.last_sequence = event.sequence - 1

    def open_attempts(self) -> list[CallRecord]:
        """Return the steps with an open attempt."""
        return [record for record in self.open.values() if record.started is not None]

    # Each of these methods applies one kind of event.

    def _workflow_started(self, event: event_pb2.Event) -> None:
        self.started = event

    def _nothing(self, _: event_pb2.Event) -> None:
        """Apply an event that no decision depends on."""

    def _workflow_paused(self, event: event_pb2.Event) -> None:
        self.stopped = workflow_pb2.WORKFLOW_STATE_PAUSED
        self.stopped_reason = event.workflow_paused.reason
        self.stopped_explanation = event.workflow_paused.explanation

    def _workflow_quarantined(self, event: event_pb2.Event) -> None:
        self.stopped = workflow_pb2.WORKFLOW_STATE_QUARANTINED
        self.stopped_reason = event_pb2.STATE_REASON_CRASH_BUDGET
        self.stopped_explanation = event.workflow_quarantined.explanation

    def _workflow_resumed(self, event: event_pb2.Event) -> None:
        self.stopped = 0
        self.stopped_reason = 0
        for record in self.open.values():
            if record.paused:
                record.paused = False
                record.failed_attempts = 0
                record.first_started = None
                record.next_attempt_time = seconds(event.time)

    def _cancel_requested(self, event: event_pb2.Event) -> None:
        if not self.cancel:
            self.cancel = event.sequence
            if self.stopped == workflow_pb2.WORKFLOW_STATE_PAUSED:
                self.stopped = self.stopped_reason = 0
            self.cleanup_deadline = seconds(event.cancel_requested.cleanup_deadline)

    def _final(self, event: event_pb2.Event) -> None:
        self.final = event

    def _attempt_started(self, event: event_pb2.Event) -> None:
        detail = event.attempt_started
        key = detail.step_key
        record = self.calls.get(key)
        if record is None:
            record = self.calls[key] = self.open[key] = CallRecord(key, "step", detail.step_name, event.sequence)
            record.input = detail.input if detail.HasField("input") else None
            record.idempotency_key = detail.idempotency_key
        if record.first_started is None:
            record.first_started = event
        record.attempt = detail.attempt
        record.started = event
        record.next_attempt_time = None
        record.held = False

    def _attempt_succeeded(self, event: event_pb2.Event) -> None:
        self._close(event.attempt_succeeded.step_key, event)

    def _attempt_failed(self, event: event_pb2.Event) -> None:
        detail = event.attempt_failed
        action = detail.decision.action
        if action in (failure_pb2.RETRY_ACTION_FAIL_STEP, failure_pb2.RETRY_ACTION_CANCEL_STEP):
            self._close(detail.step_key, event)
            return
        record = self.calls[detail.step_key]
        record.started = None
        if detail.failure.kind != failure_pb2.FAILURE_KIND_LOST:
            record.failed_attempts += 1
        if action == failure_pb2.RETRY_ACTION_RETRY:
            record.held = detail.decision.reason == failure_pb2.RETRY_REASON_SUSPECTED
            record.next_attempt_time = None if record.held else seconds(detail.decision.next_attempt_time)
        else:
            record.paused = True

    def _timer_started(self, event: event_pb2.Event) -> None:
        record = self._open(event.timer_started.key, "timer", "", event)
        record.wake_time = seconds(event.timer_started.fire_time)

    def _timer_fired(self, event: event_pb2.Event) -> None:
        self._close(event.timer_fired.key, event)

    def _signal_received(self, event: event_pb2.Event) -> None:
        detail = event.signal_received
        self.signals[event.sequence] = detail
        if not detail.undelivered:
            self.mailbox.setdefault(detail.name, deque()).append(event.sequence)

    def _signal_awaited(self, event: event_pb2.Event) -> None:
        detail = event.signal_awaited
        record = self._open(detail.key, "signal", detail.name, event)
        if detail.HasField("deadline"):
            record.wake_time = seconds(detail.deadline)

    def _signal_taken(self, event: event_pb2.Event) -> None:
        detail = event.signal_taken
        name = self.signals[detail.signal_sequence].name
        waiting = self.mailbox[name]
        waiting.remove(detail.signal_sequence)
        if not waiting:
            del self.mailbox[name]
        if detail.key not in self.calls:
            self._open(detail.key, "signal", name, event)
        self._close(detail.key, event)

    def _signal_timed_out(self, event: event_pb2.Event) -> None:
        self._close(event.signal_timed_out.key, event)

    def _call_cancelled(self, event: event_pb2.Event) -> None:
        if event.call_cancelled.key not in self.calls:
            self._open(event.call_cancelled.key, "", "", event)
        self._close(event.call_cancelled.key, event)

    def _value_recorded(self, event: event_pb2.Event) -> None:
        key = event.value_recorded.key
        record = self.calls[key] = CallRecord(key, "value", "", event.sequence)
        record.outcome = event

    def _progress_reported(self, event: event_pb2.Event) -> None:
        self.reports = max(self.reports, event.progress_reported.report)

    def _open(self, key: str, kind: str, name: str, event: event_pb2.Event) -> CallRecord:
        record = self.calls[key] = self.open[key] = CallRecord(key, kind, name, event.sequence)
        return record

    def _close(self, key: str, event: event_pb2.Event) -> None:
        record = self.open.pop(key)
        record.outcome = event
        record.started = None

    # Each of these methods undoes one kind of event that workflow code adds.

    def _undo_opening(self, key: str) -> None:
        del self.calls[key]
        self.open.pop(key, None)

    def _undo_outcome(self, key: str, event: event_pb2.Event) -> None:
        record = self.calls[key]
        record.outcome = None
        if record.sequence == event.sequence:
            del self.calls[key]  # The same event opened the call.
        else:
            self.open[key] = record

    def _undo_timer_started(self, event: event_pb2.Event) -> None:
        self._undo_opening(event.timer_started.key)

    def _undo_signal_awaited(self, event: event_pb2.Event) -> None:
        self._undo_opening(event.signal_awaited.key)

    def _undo_value_recorded(self, event: event_pb2.Event) -> None:
        self._undo_opening(event.value_recorded.key)

    def _undo_signal_taken(self, event: event_pb2.Event) -> None:
        detail = event.signal_taken
        waiting = self.mailbox.setdefault(self.signals[detail.signal_sequence].name, deque())
        waiting.appendleft(detail.signal_sequence)  # Code takes the oldest one.
        self._undo_outcome(detail.key, event)

    def _undo_call_cancelled(self, event: event_pb2.Event) -> None:
        self._undo_outcome(event.call_cancelled.key, event)


_FOLDS: dict[str, Callable[[History, event_pb2.Event], None]] = {
    "workflow_started": History._workflow_started,  # noqa: SLF001 - the table of the class's own folds
    "workflow_recovered": History._nothing,  # noqa: SLF001
    "workflow_paused": History._workflow_paused,  # noqa: SLF001
    "workflow_resumed": History._workflow_resumed,  # noqa: SLF001
    "workflow_quarantined": History._workflow_quarantined,  # noqa: SLF001
    "cancel_requested": History._cancel_requested,  # noqa: SLF001
    "attempt_started": History._attempt_started,  # noqa: SLF001
    "attempt_succeeded": History._attempt_succeeded,  # noqa: SLF001
    "attempt_failed": History._attempt_failed,  # noqa: SLF001
    "timer_started": History._timer_started,  # noqa: SLF001
    "timer_fired": History._timer_fired,  # noqa: SLF001
    "signal_received": History._signal_received,  # noqa: SLF001
    "signal_awaited": History._signal_awaited,  # noqa: SLF001
    "signal_taken": History._signal_taken,  # noqa: SLF001
    "signal_timed_out": History._signal_timed_out,  # noqa: SLF001
    "call_cancelled": History._call_cancelled,  # noqa: SLF001
    "value_recorded": History._value_recorded,  # noqa: SLF001
    "progress_reported": History._progress_reported,  # noqa: SLF001
    "alert_raised": History._nothing,  # noqa: SLF001
    **dict.fromkeys(FINAL_DETAILS, History._final),  # noqa: SLF001
}

#: What workflow code adds while it runs, and what takes it back.
_UNDOS: dict[str, Callable[[History, event_pb2.Event], None]] = {
    "timer_started": History._undo_timer_started,  # noqa: SLF001 - as above
    "signal_awaited": History._undo_signal_awaited,  # noqa: SLF001
    "signal_taken": History._undo_signal_taken,  # noqa: SLF001
    "call_cancelled": History._undo_call_cancelled,  # noqa: SLF001
    "value_recorded": History._undo_value_recorded,  # noqa: SLF001
}
