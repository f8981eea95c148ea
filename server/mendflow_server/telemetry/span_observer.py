"""Export committed events as spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from typing_extensions import override

from mendflow_server.telemetry.observer import Observer
from mendflow_server.telemetry.span_context import attempt_context

if TYPE_CHECKING:
    import contextvars

    from mendflow.v1 import event_pb2
    from mendflow_server.history.state import History
    from mendflow_server.store.records import Row
    from mendflow_server.telemetry.spans import SpanProjector

__all__ = ["SpanObserver"]


class SpanObserver(Observer):
    """Passes closed attempts and ended workflows to a projector."""

    traces = True

    def __init__(self, spans: SpanProjector) -> None:
        self._spans = spans

    @override
    def attempt_closed(self, row: Row, history: History, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        """Export the span of an attempt."""
        if history.started is not None:
            trace = history.started.workflow_started.trace
            self._spans.attempt_closed(trace, row.uid, row.workflow_id, row.workflow_type, started, closed)

    @override
    def workflow_ended(self, row: Row, history: History, final: event_pb2.Event) -> None:
        """Export the span of a workflow."""
        if history.started is not None:
            trace = history.started.workflow_started.trace
            self._spans.workflow_ended(trace, row.uid, row.workflow_id, row.workflow_type, history.started, final)

    @override
    def attempt_context(self, row: Row, history: History, step_key: str, number: int) -> contextvars.Context:
        """Return a context in which the attempt's span is the current one."""
        context = super().attempt_context(row, history, step_key, number)
        if history.started is not None:
            trace = history.started.workflow_started.trace
            context.run(otel_context.attach, attempt_context(trace, row.uid, step_key, number))
        return context
