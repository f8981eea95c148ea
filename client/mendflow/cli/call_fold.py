"""The calls of a workflow, collected from its events for the tree of `mendflow show`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mendflow.cli.times import seconds_of
from mendflow.v1 import event_pb2, failure_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["Attempt", "Call", "Calls", "Ending"]

Ending = Literal["", "succeeded", "failed", "lost", "cancelled", "fired", "taken", "timed out"]


@dataclass
class Attempt:
    """One attempt of a step. Times are in seconds since the epoch."""

    number: int
    start: float
    end: float | None = None
    ending: Ending = ""
    failure: failure_pb2.Failure | None = None


@dataclass
class Call:
    """A step, a timer or a wait for a signal."""

    key: str
    kind: Literal["step", "timer", "signal"]
    #: The name of the step or the signal.
    name: str
    start: float
    end: float | None = None
    ending: Ending = ""
    attempts: list[Attempt] = field(default_factory=list)
    #: When a timer fires, a wait times out or the next attempt starts.
    due: Timestamp | None = None
    #: Whether the next attempt will run in isolation.
    suspected: bool = False
    #: Whether the step waits until an operator resumes the workflow.
    stopped: bool = False
    #: The newest report of the open attempt.
    progress: event_pb2.ProgressReported | None = None

    @property
    def last_failure(self) -> Attempt | None:
        """The newest attempt that failed."""
        return next((each for each in reversed(self.attempts) if each.failure is not None), None)


class Calls:
    """The calls of one workflow, in the order in which they began. Events of unknown kinds are ignored."""

    def __init__(self) -> None:
        self.by_key: dict[str, Call] = {}
        #: The names of the signals that arrived and were not taken, by the sequence of their event.
        self.untaken: dict[int, str] = {}
        #: The error for which the workflow is paused now.
        self.pause_failure: failure_pb2.Failure | None = None

    def add(self, event: event_pb2.Event) -> None:
        """Add the next event."""
        detail = event.WhichOneof("detail") or ""
        fold = getattr(self, f"_{detail}", None)
        if fold is not None:
            fold(getattr(event, detail), event)

    def _workflow_paused(self, detail: event_pb2.WorkflowPaused, _: event_pb2.Event) -> None:
        self.pause_failure = detail.failure if detail.HasField("failure") else None

    def _workflow_resumed(self, _: event_pb2.WorkflowResumed, event: event_pb2.Event) -> None:
        self.pause_failure = None
        for call in self.by_key.values():
            if call.stopped:
                call.stopped, call.due = False, event.time

    def _attempt_started(self, detail: event_pb2.AttemptStarted, event: event_pb2.Event) -> None:
        call = self._step(detail.step_key, event)
        call.name = detail.step_name
        call.due, call.suspected, call.progress = None, False, None
        call.attempts.append(Attempt(detail.attempt, seconds_of(event.time)))

    def _attempt_succeeded(self, detail: event_pb2.AttemptSucceeded, event: event_pb2.Event) -> None:
        call = self._step(detail.step_key, event)
        self._end_attempt(call, detail.attempt, event, "succeeded")
        self._end(call, event, "succeeded")

    def _attempt_failed(self, detail: event_pb2.AttemptFailed, event: event_pb2.Event) -> None:
        call = self._step(detail.step_key, event)
        kinds: dict[int, Ending] = {
            failure_pb2.FAILURE_KIND_LOST: "lost",
            failure_pb2.FAILURE_KIND_CANCELLED: "cancelled",
        }
        self._end_attempt(call, detail.attempt, event, kinds.get(detail.failure.kind, "failed"), detail.failure)
        decision = detail.decision
        if decision.action == failure_pb2.RETRY_ACTION_RETRY:
            call.suspected = decision.reason == failure_pb2.RETRY_REASON_SUSPECTED
            call.due = decision.next_attempt_time if decision.HasField("next_attempt_time") else None
        elif decision.action in (
            failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW,
            failure_pb2.RETRY_ACTION_QUARANTINE_WORKFLOW,
        ):
            call.stopped = True
        else:
            cancelled = decision.action == failure_pb2.RETRY_ACTION_CANCEL_STEP
            self._end(call, event, "cancelled" if cancelled else "failed")

    def _timer_started(self, detail: event_pb2.TimerStarted, event: event_pb2.Event) -> None:
        self._open(detail.key, "timer", "", event).due = detail.fire_time

    def _timer_fired(self, detail: event_pb2.TimerFired, event: event_pb2.Event) -> None:
        self._end(self._open(detail.key, "timer", "", event), event, "fired")

    def _signal_received(self, detail: event_pb2.SignalReceived, event: event_pb2.Event) -> None:
        self.untaken[event.sequence] = detail.name

    def _signal_awaited(self, detail: event_pb2.SignalAwaited, event: event_pb2.Event) -> None:
        call = self._open(detail.key, "signal", detail.name, event)
        call.due = detail.deadline if detail.HasField("deadline") else None

    def _signal_taken(self, detail: event_pb2.SignalTaken, event: event_pb2.Event) -> None:
        name = self.untaken.pop(detail.signal_sequence, "")
        self._end(self._open(detail.key, "signal", name, event), event, "taken")

    def _signal_timed_out(self, detail: event_pb2.SignalTimedOut, event: event_pb2.Event) -> None:
        self._end(self._open(detail.key, "signal", "", event), event, "timed out")

    def _call_cancelled(self, detail: event_pb2.CallCancelled, event: event_pb2.Event) -> None:
        self._end(self._step(detail.key, event), event, "cancelled")

    def _progress_reported(self, detail: event_pb2.ProgressReported, _: event_pb2.Event) -> None:
        if detail.step_key in self.by_key:
            self.by_key[detail.step_key].progress = detail

    def _open(self, key: str, kind: Any, name: str, event: event_pb2.Event) -> Call:
        return self.by_key.setdefault(key, Call(key, kind, name, seconds_of(event.time)))

    def _step(self, key: str, event: event_pb2.Event) -> Call:
        return self._open(key, "step", "", event)

    def _end_attempt(
        self,
        call: Call,
        number: int,
        event: event_pb2.Event,
        ending: Ending,
        failure: failure_pb2.Failure | None = None,
    ) -> None:
        if not call.attempts or call.attempts[-1].number != number:
            call.attempts.append(Attempt(number, seconds_of(event.time)))
        attempt = call.attempts[-1]
        attempt.end, attempt.ending, attempt.failure = seconds_of(event.time), ending, failure

    def _end(self, call: Call, event: event_pb2.Event, ending: Ending) -> None:
        call.end, call.ending, call.due, call.suspected = seconds_of(event.time), ending, None, False
