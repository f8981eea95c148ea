"""Spans of what is on disk, and the names that telemetry uses."""

from mendflow_server.telemetry.spans import SpanProjector, build_exporter
from mendflow_server.telemetry.trace_context import attempt_context, trace_from_metadata

__all__ = ["SpanProjector", "attempt_context", "build_exporter", "trace_from_metadata"]
