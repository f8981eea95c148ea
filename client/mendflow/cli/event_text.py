"""One-line descriptions of events, payloads and failures for people.

Only this module turns events into text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.unknown_fields import UnknownFieldSet

from mendflow.cli.times import date_text, precise_text
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mendflow.v1.payload_pb2 import Payload

__all__ = [
    "clean",
    "describe_causes",
    "describe_event",
    "describe_failure",
    "describe_loss",
    "describe_payload",
    "state_name",
    "words_of",
]

#: Longer values are truncated to this many characters.
LONGEST = 120


def describe_event(event: event_pb2.Event) -> str:
    """Return an event as one line with its sequence, its time (UTC) and what happened."""
    detail = event.WhichOneof("detail") or ""
    describe = _DESCRIBERS.get(detail)
    text = _unknown(event, detail) if describe is None else describe(getattr(event, detail))
    return f"#{event.sequence:<4} {precise_text(event.time)}  {clean(text)}"


def state_name(state: int) -> str:
    """Return a state's short name, such as "RUNNING"."""
    return _enum_name(workflow_pb2.WorkflowState, "WORKFLOW_STATE_", state)


def clean(text: str) -> str:
    """Return text with its control characters escaped, because a terminal would execute them."""
    return "".join(char if char.isprintable() or char == " " else repr(char)[1:-1] for char in text)


def describe_payload(payload: Payload | None) -> str:
    """Return a payload as short text."""
    kind = None if payload is None else payload.WhichOneof("kind")
    if payload is None or kind is None:
        return "nothing"
    text = payload.json if kind == "json" else f"{payload.message.type_url} ({len(payload.message.value)} bytes)"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


def describe_failure(failure: failure_pb2.Failure) -> str:
    """Return a failure as short text with its type, message and kind."""
    kind = words_of(failure_pb2.FailureKind, "FAILURE_KIND_", failure.kind)
    name = failure.type.rpartition(".")[2]
    message = _shortened(failure.message)
    return f"{name}: {message} ({kind})" if name else f"{message} ({kind})"


def _shortened(message: str) -> str:
    return message if len(message) <= LONGEST else f"{message[:LONGEST]}…"


def describe_causes(event: event_pb2.Event) -> Iterator[str]:
    """Yield a line for each cause of an event's failure, the direct cause first."""
    detail = event.WhichOneof("detail") or ""
    failure = getattr(getattr(event, detail), "failure", None) if detail else None
    while failure is not None and failure.HasField("cause"):
        failure = failure.cause
        yield f"caused by {clean(describe_failure(failure))}"


def _unknown(event: event_pb2.Event, detail: str) -> str:
    # A newer server wrote it. The detail is an unknown field here, and the field's number is the event's kind.
    fields = UnknownFieldSet(event)
    kinds = [str(fields[index].field_number) for index in range(len(fields))]
    name = detail or ", ".join(f"kind {kind}" for kind in kinds)
    return f"{name}: unknown to this version" if name else "an event that is unknown to this version"


def _enum_name(enum: Any, prefix: str, number: int) -> str:
    try:
        name: str = enum.Name(number)
    except ValueError:  # A newer server wrote it.
        return f"{prefix.rstrip('_')} {number}"
    return name.removeprefix(prefix)


def words_of(enum: Any, prefix: str, number: int) -> str:
    """Return the name of an enum's value in lower case, such as "max attempts"."""
    return _enum_name(enum, prefix, number).lower().replace("_", " ")


def _by(detail: Any) -> str:
    reason = f": {detail.reason}" if detail.reason else ""
    return f" by {detail.actor}{reason}" if detail.actor else reason


def _attempt_failed(detail: event_pb2.AttemptFailed) -> str:
    decision = detail.decision
    what = f"{detail.step_key} attempt {detail.attempt}"
    if detail.failure.kind == failure_pb2.FAILURE_KIND_LOST:
        begin = f"{what} lost{describe_loss(detail.failure)}"
    else:
        begin = f"{what} failed: {describe_failure(detail.failure)}"
    if decision.action == failure_pb2.RETRY_ACTION_RETRY:
        if decision.reason == failure_pb2.RETRY_REASON_LOST:
            return f"{begin}; retries at once with the same idempotency key"
        if decision.reason == failure_pb2.RETRY_REASON_SUSPECTED:
            return f"{begin}; will retry in isolation, because it was running during two consecutive crashes"
        delay = decision.delay.seconds + decision.delay.nanos / 1e9
        reason = words_of(failure_pb2.RetryReason, "RETRY_REASON_", decision.reason)
        left = f", {decision.attempts_left} left" if decision.HasField("attempts_left") else ""
        return f"{begin}; retries in {delay:.2f} s ({reason}{left})"
    return f"{begin}; {decision.explanation or words_of(failure_pb2.RetryAction, 'RETRY_ACTION_', decision.action)}"


def describe_loss(failure: failure_pb2.Failure) -> str:
    """Return why an attempt was lost, after a colon; "" if that is not recorded."""
    return f": {_shortened(failure.message)}" if failure.message else ""


def _progress(detail: event_pb2.ProgressReported) -> str:
    of = f" of {detail.total}" if detail.total else ""
    step = f"{detail.step_key} " if detail.step_key else ""
    message = f" {detail.message}" if detail.message else ""
    return f"{step}progress {detail.done}{of}{message}"


def _cancelled(detail: event_pb2.WorkflowCancelled) -> str:
    return "CANCELLED" + (f"; interrupted: {', '.join(detail.cut_keys)}" if detail.cut_keys else "")


def _paused(detail: event_pb2.WorkflowPaused) -> str:
    reason = words_of(event_pb2.StateReason, "STATE_REASON_", detail.reason)
    return f"PAUSED ({reason}): {detail.explanation}"


def _recovered(detail: event_pb2.WorkflowRecovered) -> str:
    return f"recovered by {detail.replica_id} from {detail.previous_replica_id} (generation {detail.generation})"


def _signal_received(detail: event_pb2.SignalReceived) -> str:
    undelivered = ", too late to deliver" if detail.undelivered else ""
    return f"signal {detail.name} received with {describe_payload(detail.data)}{undelivered}"


def _started(detail: event_pb2.WorkflowStarted) -> str:
    return f"{detail.workflow_type} started with {describe_payload(detail.input)}"


_DESCRIBERS: dict[str, Callable[[Any], str]] = {
    "workflow_started": _started,
    "workflow_recovered": _recovered,
    "workflow_paused": _paused,
    "workflow_resumed": lambda detail: f"resumed{_by(detail)}",
    "workflow_quarantined": lambda detail: f"QUARANTINED: {detail.explanation}",
    "cancel_requested": lambda detail: f"cancel requested{_by(detail)}",
    "workflow_succeeded": lambda detail: f"SUCCEEDED with {describe_payload(detail.output)}",
    "workflow_failed": lambda detail: f"FAILED: {describe_failure(detail.failure)}",
    "workflow_cancelled": _cancelled,
    "workflow_terminated": lambda detail: f"TERMINATED{_by(detail)}",
    "attempt_started": lambda detail: f"{detail.step_key} attempt {detail.attempt} started",
    "attempt_succeeded": lambda detail: (
        f"{detail.step_key} attempt {detail.attempt} succeeded with {describe_payload(detail.output)}"
    ),
    "attempt_failed": _attempt_failed,
    "timer_started": lambda detail: f"{detail.key} until {date_text(detail.fire_time)}",
    "timer_fired": lambda detail: f"{detail.key} fired",
    "signal_received": _signal_received,
    "signal_awaited": lambda detail: (
        f"waits for signal {detail.name}{f' until {date_text(detail.deadline)}' if detail.HasField('deadline') else ''}"
    ),
    "signal_taken": lambda detail: f"{detail.key} took the signal of event {detail.signal_sequence}",
    "signal_timed_out": lambda detail: f"{detail.key} timed out",
    "call_cancelled": lambda detail: f"{detail.key} cancelled",
    "value_recorded": lambda detail: f"{detail.key} is {describe_payload(detail.value)}",
    "progress_reported": _progress,
    "alert_raised": lambda detail: f"ALERT {detail.name}: {detail.message}",
}
