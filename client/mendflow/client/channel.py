"""The channel: keep-alive, and the retries that gRPC does by itself."""

from __future__ import annotations

import json
from typing import Any, Final

import grpc

from mendflow.client.process import refuse_forked_child, uses_grpc

__all__ = ["open_channel", "trace_metadata"]

#: Idempotent as this client sends them: it always sets the ids that make them so. A watch is taken up by the client.
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
    # The server allows a ping each 10 s, also without a call.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A server that is back is found soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # An input and an output near the payload limit fit in one reply.
    ("grpc.max_receive_message_length", 16 << 20),
)


def open_channel(target: str) -> grpc.aio.Channel:
    """Answer a channel to a server without TLS."""
    refuse_forked_child()
    channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
    uses_grpc(channel)
    return channel


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Answer the current OpenTelemetry context as metadata; nothing where OpenTelemetry is not installed."""
    if _inject is None:
        return ()
    carrier: dict[str, str] = {}
    _inject(carrier)
    # Some propagators write capitals, which gRPC refuses.
    return tuple((name.lower(), value) for name, value in carrier.items())


try:
    from opentelemetry.propagate import inject as _inject_found
except ImportError:  # A client without OpenTelemetry.
    _inject: Any = None
else:
    _inject = _inject_found
