"""A watch that yields each event of a workflow once, also across restarts of the server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
from mendflow.v1 import workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection import Connection
    from mendflow.v1.event_pb2 import Event

#: The pause before a reconnect, in seconds.
PAUSE = 0.2

#: The codes that a retry can resolve: the server crashed, is shutting down or is unreachable. This program does not
#: cancel calls, so CANCELLED comes from gRPC when the server stops. Every other code is a refusal.
RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

FINAL = ("workflow_succeeded", "workflow_failed", "workflow_cancelled", "workflow_terminated")


def watch(connection: Connection, workflow_id: str) -> Iterator[Event]:
    """Yield each event, and return after the final event."""
    # The cursor is the only state of a watch. A program that can crash stores it in a file.
    after = 0
    ended = False
    while not ended:
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id, after_sequence=after)
        try:
            for frame in connection.workflows.WatchWorkflow(request):
                for event in frame.events:
                    yield event
                    ended = ended or event.WhichOneof("detail") in FINAL
                # Use the frame's cursor, not its last event: a heartbeat has a cursor but no events,
                # and with a filter the cursor also passes the excluded events.
                after = frame.last_sequence
        except grpc.RpcError as error:
            if error.code() not in RETRYABLE:
                raise
            time.sleep(PAUSE)


def print_event(event: Event) -> None:
    """Print an event's sequence and kind."""
    print(f"watch: {event.sequence} {event.WhichOneof('detail')}", flush=True)
