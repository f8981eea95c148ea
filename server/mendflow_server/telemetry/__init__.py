"""Spans of what is on disk, and the names that telemetry uses."""

from mendflow_server.telemetry.context import attempt_context, trace_from_metadata
from mendflow_server.telemetry.exporter import build_exporter

__all__ = ["attempt_context", "build_exporter", "trace_from_metadata"]
