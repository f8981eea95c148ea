"""Logs and spans of committed events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.telemetry.exporter import build_exporter
from mendflow_server.telemetry.log_observer import LogObserver
from mendflow_server.telemetry.observer import FanOut
from mendflow_server.telemetry.span_observer import SpanObserver
from mendflow_server.telemetry.trace_context import attempt_context, trace_from_metadata

if TYPE_CHECKING:
    from mendflow_server.telemetry.observer import Observer
    from mendflow_server.telemetry.spans import SpanProjector

__all__ = ["attempt_context", "build_exporter", "build_observer", "trace_from_metadata"]


def build_observer(spans: SpanProjector | None) -> Observer:
    """Return the observer that logs committed events and, if ``spans`` is given, exports them as spans."""
    return LogObserver() if spans is None else FanOut(LogObserver(), SpanObserver(spans))
