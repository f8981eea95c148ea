"""OpenTelemetry's contexts of workflows' and attempts' spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace.span import TraceState

from mendflow_server.telemetry.trace_context import SAMPLED, attempt_span_id

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from mendflow.v1 import event_pb2

__all__ = ["attempt_context", "span_context"]


def span_context(context: event_pb2.TraceContext, span_id: int, *, remote: bool = False) -> trace.SpanContext:
    """Return the context of a span in this trace."""
    state = TraceState.from_header([context.trace_state]) if context.trace_state else None
    return trace.SpanContext(
        int(context.trace_id, 16), span_id, remote, trace.TraceFlags(context.trace_flags & SAMPLED), state
    )


def attempt_context(context: event_pb2.TraceContext, uid: str, step_key: str, attempt: int) -> Context:
    """Return a context in which an attempt's span is the current one, so that it is the parent of the code's spans."""
    span = span_context(context, attempt_span_id(uid, step_key, attempt))
    return trace.set_span_in_context(trace.NonRecordingSpan(span))
