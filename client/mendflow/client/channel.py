"""The gRPC channel, with keep-alive and gRPC's own retries."""

from __future__ import annotations

import json
import logging
from typing import Final, TypeAlias

import grpc

from mendflow.addresses import names_replicas
from mendflow.client.loopback import NO_PROXY, is_loopback
from mendflow.client.process import refuse_forked_child, uses_grpc
from mendflow.client.propagation import load_propagation
from mendflow.foreign_variables import take_ignored

__all__ = ["open_channel"]

log = logging.getLogger("mendflow.client")

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

_Options: TypeAlias = "tuple[tuple[str, str | int], ...]"

_SERVICE_CONFIG: Final = {
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method} for service, methods in _RETRIED.items() for method in methods
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

_ONE_SERVER: Final[_Options] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # The server allows one ping every 10 s, also without an open call.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC 1.85 waits for the answer to a ping as long as this says, and its default is a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
)

#: The calls take turns on the replicas that are connected. One that does not answer is left when another may have taken
#: its workflows over: its lease is 10 s.
_REPLICAS: Final[_Options] = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}], **_SERVICE_CONFIG})),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
)

_OPTIONS: Final[_Options] = (
    ("grpc.enable_retries", 1),
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
    """Return a channel without TLS to a server or to replicas. Log each variable that had to be ignored, once."""
    refuse_forked_child()
    load_propagation()
    for ignored in take_ignored():
        log.warning("%s", ignored)
    options = (*_OPTIONS, *(_REPLICAS if names_replicas(target) else _ONE_SERVER))
    options = (*options, NO_PROXY) if is_loopback(target) else options
    channel = grpc.aio.insecure_channel(target, options=options)
    uses_grpc(channel)
    return channel
