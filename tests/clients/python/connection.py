"""One channel to the server. It is made once: it connects again by itself, and any number of threads may use it."""

from __future__ import annotations

import json
from typing import Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from mendflow.v1 import workflow_service_pb2_grpc

SERVICE = "mendflow.v1.WorkflowService"

#: How long a call may take over and above what it asks the server to wait, in seconds.
PATIENCE = 10.0

#: What is safe to ask twice: what only reads, a start under an id, a signal under a request_id, and a cancellation.
#: Not WatchWorkflow: a watch that broke goes on from its cursor (watching.py).
ASKED_AGAIN = ("StartWorkflow", "GetWorkflow", "ListWorkflows", "ListEvents", "SignalWorkflow", "CancelWorkflow")

#: UNAVAILABLE is a server that starts, drains or cannot commit: gRPC asks again, and the caller sees nothing of it.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": method} for method in ASKED_AGAIN],
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
    """A channel, and the stubs on it. Use it as a context manager."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
                # A peer that vanished without a word is noticed while a call is open.
                ("grpc.keepalive_time_ms", 30_000),
                # A server that is back is found soon; left alone, the channel would wait up to two minutes.
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
