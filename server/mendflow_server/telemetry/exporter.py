"""The export of spans, by the standard OTEL_ variables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import structlog

from mendflow.client.propagation import prepare_propagation
from mendflow.foreign_variables import note_ignored, replaced, take_ignored
from mendflow_server.telemetry.otel_variables import NotExported, corrected

if TYPE_CHECKING:
    from mendflow_server.telemetry.spans import SpanProjector

__all__ = ["build_exporter", "log_ignored_variables"]

_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OFF: Final = "spans are not exported"

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
    chosen = _chosen()
    if chosen is None:
        return None
    # OpenTelemetry cannot be imported with the name of a context that is not installed.
    prepare_propagation()
    try:
        with replaced(corrected()):
            # A late import: the SDK and the exporter would add 40 ms to the start of a server that exports no spans.
            from mendflow_server.telemetry import spans  # noqa: PLC0415 - as above

            return spans.build_projector(spans.console_exporter if chosen == "console" else spans.otlp_exporter)
    except NotExported:
        return None
    except Exception as error:  # noqa: BLE001 - telemetry must not prevent the start of the server
        variables = sorted(name for name in os.environ if name.startswith("OTEL_"))
        log.warning("spans_not_exported", error=f"{type(error).__name__}: {error}", variables=variables)
        return None


def _chosen() -> str | None:
    """Return the name of the exporter; None if there is none."""
    names = [name.strip().lower() for name in os.environ.get(_EXPORTER, "").split(",") if name.strip()]
    known = [name for name in names if name in ("otlp", "console", "none")]
    if len(names) > 1 or names != known:
        instead = f"{known[0]} is used" if known else _OFF
        note_ignored(_EXPORTER, "it must be one of otlp, console and none", instead)
    if names and not known:
        return None
    chosen = known[0] if known else "otlp"
    if chosen != "otlp":
        return None if chosen == "none" else chosen
    if not (os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return None
    protocol = next((name for name in _PROTOCOLS if os.environ.get(name)), None)
    if protocol is not None and os.environ[protocol].strip().lower() != "grpc":
        note_ignored(protocol, "spans are exported over grpc only", _OFF)
        return None
    return chosen


def log_ignored_variables() -> None:
    """Log each environment variable of another library that is ignored, once."""
    for ignored in take_ignored():
        log.warning("environment_variable_ignored", **ignored._asdict())
