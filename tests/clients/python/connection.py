"""One channel to the server. It reconnects automatically, and any number of threads can share it."""

from __future__ import annotations

import json
from typing import Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from mendflow.v1 import workflow_service_pb2_grpc

SERVICE = "mendflow.v1.WorkflowService"

#: The time that a call has in addition to its requested wait, in seconds.
PATIENCE = 10.0

#: The calls that are safe to retry: reads, a start with an id, a signal with a request_id, and a cancel. WatchWorkflow
#: is not listed, because a broken watch must resume at its cursor (watching.py).
RETRIED = ("StartWorkflow", "GetWorkflow", "ListWorkflows", "ListEvents", "SignalWorkflow", "CancelWorkflow")

#: gRPC retries UNAVAILABLE, which a server returns that is starting, shutting down or cannot commit.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": method} for method in RETRIED],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class Connection:
    """A channel and its stubs. Use it as a context manager."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
                # Pings detect a peer that disappeared during a call.
                ("grpc.keepalive_time_ms", 30_000),
                # Reconnect soon after a restart of the server. The default wait is up to two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ],
        )
        self.workflows = workflow_service_pb2_grpc.WorkflowServiceStub(self._channel)
        self.health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
