"""The export of spans, by the standard OTEL_ variables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from mendflow_server.telemetry.spans import SpanProjector

__all__ = ["build_exporter"]

log = structlog.get_logger("mendflow.telemetry")


def build_exporter() -> SpanProjector | None:
    """Return the projector that the standard OTEL_ variables configure; None if they configure none.

    OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is the
    receiver's address (gRPC). OTEL_TRACES_EXPORTER=console prints the spans;
    OTEL_TRACES_EXPORTER=none or OTEL_SDK_DISABLED=true turns them off.
    OpenTelemetry itself reads the other variables.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    chosen = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if chosen == "none" or (chosen in ("", "otlp") and not endpoint):
        return None
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if chosen != "console" and (chosen not in ("", "otlp") or protocol not in (None, "", "grpc")):
        log.warning(
            "spans_not_exported", exporter=chosen or "otlp", protocol=protocol, supported="otlp over grpc, console"
        )
        return None
    # A late import: the SDK and the exporter would add 40 ms to the start of a server that exports no spans.
    from mendflow_server.telemetry import spans  # noqa: PLC0415 - as above

    return spans.build_projector(spans.console_exporter if chosen == "console" else spans.OTLPSpanExporter)
