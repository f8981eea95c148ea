"""An event in one line, for people. The only place where events become words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.timestamp_pb2 import Timestamp

    from mendflow.v1.payload_pb2 import Payload

__all__ = ["clean", "describe_failure", "narrate", "shape", "state_name"]

#: More of a value than this is cut.
LONGEST = 120


def narrate(event: event_pb2.Event) -> str:
    """Answer an event as a line: sequence, time, and what happened."""
    detail = event.WhichOneof("detail")
    tell = _TELLERS.get(detail or "")
    text = "something that this version does not know" if tell is None else tell(getattr(event, detail or ""))
    return f"#{event.sequence:<4} {_clock(event.time)}  {clean(text)}"


def state_name(state: int) -> str:
    """Answer a state's short name."""
    return workflow_pb2.WorkflowState.Name(state).removeprefix("WORKFLOW_STATE_")  # type: ignore[arg-type] # an enum's number


def clean(text: str) -> str:
    """Answer text without control characters: it may come from anyone, and a terminal obeys them."""
    return "".join(char if char.isprintable() or char == " " else repr(char)[1:-1] for char in text)


def shape(payload: Payload | None) -> str:
    """Answer a payload in short."""
    kind = None if payload is None else payload.WhichOneof("kind")
    if payload is None or kind is None:
        return "nothing"
    text = payload.json if kind == "json" else f"{payload.message.type_url} ({len(payload.message.value)} bytes)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def describe_failure(failure: failure_pb2.Failure) -> str:
    """Answer a failure in short."""
    kind = failure_pb2.FailureKind.Name(failure.kind).removeprefix("FAILURE_KIND_").lower()
    name = failure.type.rpartition(".")[2]
    message = failure.message if len(failure.message) <= LONGEST else f"{failure.message[:LONGEST]}…"
    return f"{name}: {message} ({kind})" if name else f"{message} ({kind})"


def _clock(moment: Timestamp) -> str:
    return moment.ToDatetime().strftime("%H:%M:%S.") + f"{moment.nanos // 1_000_000:03d}"


def _by(detail: Any) -> str:
    reason = f": {detail.reason}" if detail.reason else ""
    return f" by {detail.actor}{reason}" if detail.actor else reason


def _attempt_failed(detail: event_pb2.AttemptFailed) -> str:
    decision = detail.decision
    what = f"{detail.step_key} attempt {detail.attempt}"
    if detail.failure.kind == failure_pb2.FAILURE_KIND_LOST:
        begin = f"{what} lost: the server ended before it did"
    else:
        begin = f"{what} failed: {describe_failure(detail.failure)}"
    if decision.action == failure_pb2.RETRY_ACTION_RETRY:
        if decision.reason == failure_pb2.RETRY_REASON_LOST:
            return f"{begin}; runs again at once, under the same idempotency key"
        if decision.reason == failure_pb2.RETRY_REASON_SUSPECTED:
            return f"{begin}; waits for its turn, for it was in flight at two deaths in a row"
        delay = decision.delay.seconds + decision.delay.nanos / 1e9
        reason = failure_pb2.RetryReason.Name(decision.reason).removeprefix("RETRY_REASON_").lower().replace("_", " ")
        left = f", {decision.attempts_left} left" if decision.HasField("attempts_left") else ""
        return f"{begin}; retry in {delay:.2f} s ({reason}{left})"
    return f"{begin}; {decision.explanation}"


def _progress(detail: event_pb2.ProgressReported) -> str:
    of = f" of {detail.total}" if detail.total else ""
    who = f"{detail.step_key} " if detail.step_key else ""
    message = f" {detail.message}" if detail.message else ""
    return f"{who}progress {detail.done}{of}{message}"


def _cancelled(detail: event_pb2.WorkflowCancelled) -> str:
    return "CANCELLED" + (f"; cut off: {', '.join(detail.cut_keys)}" if detail.cut_keys else "")


def _paused(detail: event_pb2.WorkflowPaused) -> str:
    reason = event_pb2.StateReason.Name(detail.reason).removeprefix("STATE_REASON_").lower().replace("_", " ")
    return f"PAUSED ({reason}): {detail.explanation}"


def _recovered(detail: event_pb2.WorkflowRecovered) -> str:
    return f"recovered by {detail.replica_id}, after {detail.previous_replica_id} (generation {detail.generation})"


def _started(detail: event_pb2.WorkflowStarted) -> str:
    return f"{detail.workflow_type} started with {shape(detail.input)}"


_TELLERS: dict[str, Callable[[Any], str]] = {
    "workflow_started": _started,
    "workflow_recovered": _recovered,
    "workflow_paused": _paused,
    "workflow_resumed": lambda detail: f"resumed{_by(detail)}",
    "workflow_quarantined": lambda detail: f"QUARANTINED: {detail.explanation}",
    "cancel_requested": lambda detail: f"cancel requested{_by(detail)}",
    "workflow_succeeded": lambda detail: f"SUCCEEDED with {shape(detail.output)}",
    "workflow_failed": lambda detail: f"FAILED: {describe_failure(detail.failure)}",
    "workflow_cancelled": _cancelled,
    "workflow_terminated": lambda detail: f"TERMINATED{_by(detail)}",
    "attempt_started": lambda detail: f"{detail.step_key} attempt {detail.attempt} started",
    "attempt_succeeded": lambda detail: (
        f"{detail.step_key} attempt {detail.attempt} succeeded with {shape(detail.output)}"
    ),
    "attempt_failed": _attempt_failed,
    "timer_started": lambda detail: f"{detail.key} until {_clock(detail.fire_time)}",
    "timer_fired": lambda detail: f"{detail.key} is over",
    "signal_received": lambda detail: (
        f"signal {detail.name} received with {shape(detail.data)}{' too late' if detail.undelivered else ''}"
    ),
    "signal_awaited": lambda detail: (
        f"waits for signal {detail.name}{f' until {_clock(detail.deadline)}' if detail.HasField('deadline') else ''}"
    ),
    "signal_taken": lambda detail: f"{detail.key} took the signal of event {detail.signal_sequence}",
    "signal_timed_out": lambda detail: f"{detail.key} did not come in time",
    "call_cancelled": lambda detail: f"{detail.key} cancelled",
    "value_recorded": lambda detail: f"{detail.key} is {shape(detail.value)}",
    "progress_reported": _progress,
    "alert_raised": lambda detail: f"ALERT {detail.name}: {detail.message}",
}
