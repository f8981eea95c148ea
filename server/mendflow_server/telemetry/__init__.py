"""Spans of what is on disk, and the names that telemetry uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.telemetry.exporter import build_exporter
from mendflow_server.telemetry.log_observer import LogsAndSpans
from mendflow_server.telemetry.trace_context import attempt_context, trace_from_metadata

if TYPE_CHECKING:
    from mendflow_server.telemetry.observer import Observer
    from mendflow_server.telemetry.spans import SpanProjector

__all__ = ["attempt_context", "build_exporter", "build_observer", "trace_from_metadata"]


def build_observer(spans: SpanProjector | None) -> Observer:
    """Return the observer that logs committed events and, with ``spans``, exports their spans."""
    return LogsAndSpans(spans)
