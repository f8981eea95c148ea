"""The gRPC channel, with keep-alive and gRPC's own retries."""

from __future__ import annotations

import json
from typing import Any, Final

import grpc

from mendflow.client.process import refuse_forked_child, uses_grpc

__all__ = ["open_channel", "trace_metadata"]

#: These calls are idempotent, because the client always sets their ids. A watch is not listed: the client resumes it.
_RETRIED: Final = {
    "mendflow.v1.WorkflowService": (
        "StartWorkflow",
        "BatchStartWorkflows",
        "GetWorkflow",
        "ListWorkflows",
        "ListEvents",
        "SignalWorkflow",
        "CancelWorkflow",
        "ListWorkflowTypes",
        "GetServerInfo",
    ),
}

_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _RETRIED.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

_OPTIONS: Final = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # The server allows one ping every 10 s, also without an open call.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnect soon after a restart of the server. gRPC's default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # One reply can have an input and an output, each as large as the payload limit.
    ("grpc.max_receive_message_length", 16 << 20),
)


def open_channel(target: str) -> grpc.aio.Channel:
    """Return a channel without TLS to a server."""
    refuse_forked_child()
    channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
    uses_grpc(channel)
    return channel


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the current OpenTelemetry context as metadata, or () if OpenTelemetry is not installed."""
    if _inject is None:
        return ()
    carrier: dict[str, str] = {}
    _inject(carrier)
    # Some propagators write upper-case names, which gRPC rejects.
    return tuple((name.lower(), value) for name, value in carrier.items())


try:
    from opentelemetry.propagate import inject as _inject_found
except ImportError:  # OpenTelemetry is optional.
    _inject: Any = None
else:
    _inject = _inject_found
