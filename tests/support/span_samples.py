"""The events of an attempt, and their report to what makes spans of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2, failure_pb2
from mendflow_server.telemetry import build_exporter

if TYPE_CHECKING:
    from mendflow_server.telemetry.spans import SpanProjector


TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UID = "0b9c1f6e"


def projector() -> SpanProjector:
    built = build_exporter()
    assert built is not None
    return built


def context_of(flags: int = 1, parent: str = "") -> event_pb2.TraceContext:
    return event_pb2.TraceContext(trace_id=TRACE_ID, trace_flags=flags, parent_span_id=parent)


def event(seconds: int) -> event_pb2.Event:
    made = event_pb2.Event()
    made.time.seconds = seconds
    return made


def started(attempt: int = 1, seconds: int = 100) -> event_pb2.Event:
    made = event(seconds)
    detail = made.attempt_started
    detail.step_key, detail.step_name, detail.attempt = "gather[3]/charge", "charge", attempt
    return made


def succeeded(seconds: int = 101) -> event_pb2.Event:
    made = event(seconds)
    made.attempt_succeeded.SetInParent()
    return made


def failed(kind: failure_pb2.FailureKind.ValueType, type_: str, message: str) -> event_pb2.Event:
    made = event(101)
    failure, decision = made.attempt_failed.failure, made.attempt_failed.decision
    failure.kind, failure.type, failure.message = kind, type_, message
    decision.action, decision.reason = failure_pb2.RETRY_ACTION_RETRY, failure_pb2.RETRY_REASON_BACKOFF
    decision.delay.FromMilliseconds(250)
    decision.explanation = "attempt 1 of 5"
    return made


def report_attempt(
    to: SpanProjector, context: event_pb2.TraceContext, closed: event_pb2.Event, number: int = 1
) -> None:
    to.attempt_closed(context, UID, "order-17", "checkout", started(number), closed)


def export_attempt(closed: event_pb2.Event | None = None) -> None:
    """Export the span of an attempt, which succeeds unless an event says how it ends."""
    spans = projector()
    report_attempt(spans, context_of(), closed or succeeded())
    spans.shutdown()
