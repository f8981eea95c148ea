"""Requests that start an order, with its input as JSON or as a typed message."""

from __future__ import annotations

import json
from typing import Any

from examples.order.v1 import order_pb2
from mendflow.v1 import payload_pb2, workflow_service_pb2


def as_json(value: Any) -> payload_pb2.Payload:
    """Return a value as a JSON payload, which every workflow accepts."""
    return payload_pb2.Payload(json=json.dumps(value))


def as_message(order: dict[str, Any]) -> payload_pb2.Payload:
    """Return an order as the message that `mendflow export-protos` generated for its type."""
    payload = payload_pb2.Payload()
    payload.message.Pack(order_pb2.PlaceOrderInput(**order))
    return payload


def start(workflow_id: str, order: payload_pb2.Payload) -> workflow_service_pb2.StartWorkflowRequest:
    """Return a request. The caller sets the id, so that a retry does not start a second order."""
    return workflow_service_pb2.StartWorkflowRequest(workflow_type="place_order", workflow_id=workflow_id, input=order)
