"""A workflow's events from the first to the last, each once, whatever becomes of the server in between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
from mendflow.v1 import workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connection import Connection
    from mendflow.v1.event_pb2 import Event

#: How long to leave a server alone that was not there, in seconds.
PAUSE = 0.2

#: Asking again helps: the server was killed, drains or is out of reach. A cancel that is not by this program is gRPC's
#: own, from a server that stops. Everything else is a refusal.
PASSES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

FINAL = ("workflow_succeeded", "workflow_failed", "workflow_cancelled", "workflow_terminated")


def watch(connection: Connection, workflow_id: str) -> Iterator[Event]:
    """Yield each event, and return after the final one."""
    # The cursor is all that a watch must remember. A program that itself may die keeps it on disk.
    after = 0
    ended = False
    while not ended:
        request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id, after_sequence=after)
        try:
            for frame in connection.workflows.WatchWorkflow(request):
                for event in frame.events:
                    yield event
                    ended = ended or event.WhichOneof("detail") in FINAL
                # Of the frame, not of its last event: a frame without events is a sign of life and has a cursor too,
                # and with a filter the cursor passes the events that were left out.
                after = frame.last_sequence
        except grpc.RpcError as error:
            if error.code() not in PASSES:
                raise
            time.sleep(PAUSE)


def print_event(event: Event) -> None:
    """Print an event's place and kind."""
    print(f"watch: {event.sequence} {event.WhichOneof('detail')}", flush=True)
