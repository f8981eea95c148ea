"""Rows and events, converted to `mendflow.v1.Workflow`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.v1 import workflow_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from mendflow.v1.event_pb2 import Event
    from mendflow_server.store.records import Row

__all__ = ["describe", "describe_into", "set_micros"]


def describe(row: Row, *, started: Event | None = None, final: Event | None = None) -> workflow_pb2.Workflow:
    """Return a workflow as its row has it; see `describe_into`."""
    workflow = workflow_pb2.Workflow()
    describe_into(workflow, row, started=started, final=final)
    return workflow


def describe_into(
    workflow: workflow_pb2.Workflow, row: Row, *, started: Event | None = None, final: Event | None = None
) -> None:
    """Fill in an empty message from a row.

    The message gets the input only if ``started``, its first event, is given. It gets the output or the failure only
    if ``final``, its last event, is given.
    """
    # Field by field, since keyword arguments take several times as long.
    workflow.workflow_id = row.workflow_id
    workflow.uid = row.uid
    workflow.workflow_type = row.workflow_type
    workflow.state = row.state  # type: ignore[assignment]  # rows have the numbers
    if row.reason:
        workflow.reason = row.reason  # type: ignore[assignment]
    if row.explanation:
        workflow.explanation = row.explanation
    if row.wake_time is not None:
        set_micros(workflow.wake_time, row.wake_time)
    set_micros(workflow.create_time, row.create_time)
    if row.end_time is not None:
        set_micros(workflow.end_time, row.end_time)
    workflow.last_sequence = row.last_sequence
    workflow.generation = row.generation
    workflow.replica_id = row.replica_id
    workflow.trace_id = row.trace_id
    if row.held:
        workflow.held = True
    if row.labels:
        workflow.labels.update(row.labels)
    if started is not None and started.workflow_started.HasField("input"):
        workflow.input.CopyFrom(started.workflow_started.input)
    if final is not None:
        _set_outcome(workflow, final)


def _set_outcome(workflow: workflow_pb2.Workflow, final: Event) -> None:
    detail = final.WhichOneof("detail")
    if detail == "workflow_succeeded" and final.workflow_succeeded.HasField("output"):
        workflow.output.CopyFrom(final.workflow_succeeded.output)
    elif detail == "workflow_failed":
        workflow.failure.CopyFrom(final.workflow_failed.failure)


def set_micros(moment: Timestamp, micros: int) -> None:
    """Set a timestamp from microseconds since the epoch, without rounding."""
    seconds, rest = divmod(micros, 1_000_000)
    moment.seconds = seconds
    moment.nanos = rest * 1000
