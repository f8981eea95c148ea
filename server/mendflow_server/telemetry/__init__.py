"""Logs and spans of committed events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.telemetry.exporter import build_exporter, log_ignored_variables
from mendflow_server.telemetry.log_observer import LogObserver
from mendflow_server.telemetry.observer import FanOut
from mendflow_server.telemetry.sampling import build_sampler
from mendflow_server.telemetry.trace_context import trace_from_metadata

if TYPE_CHECKING:
    from mendflow_server.telemetry.observer import Observer
    from mendflow_server.telemetry.spans import SpanProjector

__all__ = ["build_exporter", "build_observer", "build_sampler", "log_ignored_variables", "trace_from_metadata"]


def build_observer(spans: SpanProjector | None) -> Observer:
    """Return the observer that logs committed events and, if ``spans`` is given, exports them as spans."""
    if spans is None:
        return LogObserver()
    # A late import, of OpenTelemetry, which a server without spans does not need.
    from mendflow_server.telemetry.span_observer import SpanObserver  # noqa: PLC0415 - as above

    return FanOut(LogObserver(), SpanObserver(spans))
