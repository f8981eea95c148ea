"""The final events of a workflow, and the attempts that they close."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from mendflow.authoring.failures.retry import cancelled_failure, classify
from mendflow.authoring.retry import RetryPolicy
from mendflow.codec import oversize
from mendflow.errors import PayloadError
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.history.workflow_status import WorkflowStatus
from mendflow_server.store.records import InboxKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow.v1 import payload_pb2
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.replay.workflow_runner import WorkflowRunner
    from mendflow_server.store.records import Message

    #: The start and the close of an attempt.
    Closed = list[tuple[event_pb2.Event, event_pb2.Event]]

#: The status of a workflow whose code waits until the crash guard releases it.
HELD = WorkflowStatus(workflow_pb2.WORKFLOW_STATE_WAITING, event_pb2.STATE_REASON_SUSPECTED, "the workflow function")

_POLICY = RetryPolicy()


class RunResult(NamedTuple):
    """What a workflow function came to: a result as its payload, or an error."""

    output: payload_pb2.Payload | None
    error: BaseException | None


def not_served(workflow_type: str) -> WorkflowStatus:
    """Return the status of a workflow that this server cannot run."""
    explanation = f"no server serves {workflow_type} and understands its history"
    return WorkflowStatus(workflow_pb2.WORKFLOW_STATE_WAITING, event_pb2.STATE_REASON_NOT_SERVED, explanation)


def result_of(builder: HistoryBuilder, run: WorkflowRunner, payload_limit: int) -> RunResult:
    """Return what the code that has ended came to; ``payload_limit`` is in bytes."""
    if run.error is not None:
        return RunResult(None, run.error)
    try:
        output = run.workflow.output_type.answer(run.value, _input(builder))
        size = oversize(output, payload_limit)
        if size:
            msg = f"the workflow's result has {size} bytes, which exceeds the limit of {payload_limit}"
            raise PayloadError(msg)  # noqa: TRY301 - fails like a result that cannot be encoded
    except PayloadError as refused:
        return RunResult(None, refused)
    return RunResult(output, None)


def of_result(builder: HistoryBuilder, result: RunResult, now: float) -> Closed:
    """End as the code ended; ``now`` is in seconds since the epoch."""
    if result.error is None:
        event = builder.new()
        event.workflow_succeeded.SetInParent()
        if result.output is not None and result.output.WhichOneof("kind"):
            event.workflow_succeeded.output.CopyFrom(result.output)
        builder.add(event)
        return []
    if isinstance(result.error, asyncio.CancelledError) and builder.history.cancel:
        return cancelled(builder, cut=[], deadline=False)
    return failed(builder, failure_of(result.error, now), event_pb2.STATE_REASON_UNSPECIFIED)


def failure_of(error: BaseException, now: float) -> failure_pb2.Failure:
    """Return the failure of an error that the workflow function raised."""
    return classify(error, policy=_POLICY, now=now).failure


def _input(builder: HistoryBuilder) -> payload_pb2.Payload | None:
    started = builder.history.started
    return None if started is None else started.workflow_started.input


def failed(builder: HistoryBuilder, failure: failure_pb2.Failure, reason: event_pb2.StateReason.ValueType) -> Closed:
    """End as FAILED."""
    closed = close_attempts(builder)
    event = builder.new()
    event.workflow_failed.failure.CopyFrom(failure)
    event.workflow_failed.reason = reason
    builder.add(event)
    return closed


def too_long(builder: HistoryBuilder, limit: int) -> Closed:
    """End as FAILED because the history has reached its limit of events."""
    failure = failure_pb2.Failure(
        kind=failure_pb2.FAILURE_KIND_PERMANENT,
        type="mendflow.HistoryLimit",
        message=f"the history reached its limit of {limit} events; split the work over several workflows",
    )
    return failed(builder, failure, event_pb2.STATE_REASON_HISTORY_LIMIT)


def cancelled(builder: HistoryBuilder, *, cut: Sequence[str], deadline: bool) -> Closed:
    """End as CANCELLED; ``cut`` has the keys of the calls that this interrupts."""
    closed = close_attempts(builder)
    event = builder.new()
    event.workflow_cancelled.SetInParent()
    event.workflow_cancelled.cut_keys.extend(cut)
    if deadline:
        event.workflow_cancelled.reason = event_pb2.STATE_REASON_CLEANUP_DEADLINE
    builder.add(event)
    return closed


def terminated(builder: HistoryBuilder, detail: event_pb2.WorkflowTerminated) -> Closed:
    """End as TERMINATED."""
    closed = close_attempts(builder)
    event = builder.new()
    event.workflow_terminated.CopyFrom(detail)
    builder.add(event)
    return closed


def close_attempts(builder: HistoryBuilder) -> Closed:
    """Close every open attempt, because its workflow ends; return the start and the close of each."""
    closed: Closed = []
    for record in builder.history.open_attempts():
        started = record.started
        if started is None:
            continue
        event = builder.new()
        detail = event.attempt_failed
        detail.step_key = record.key
        detail.attempt = record.attempt
        detail.failure.CopyFrom(cancelled_failure("the workflow ended"))
        detail.failure.step_key = record.key
        detail.decision.action = failure_pb2.RETRY_ACTION_CANCEL_STEP
        detail.decision.reason = failure_pb2.RETRY_REASON_WORKFLOW_ENDED
        detail.decision.explanation = "The workflow has ended and takes no further attempt."
        builder.add(event)
        closed.append((started, event))
    return closed


def undelivered(message: Message, final: event_pb2.Event) -> event_pb2.Event | None:
    """Return the event of a message that came too late, in the final event's place; None: it needs none."""
    event = event_pb2.Event()
    event.sequence = final.sequence
    event.time.CopyFrom(final.time)
    if message.kind is InboxKind.SIGNAL:
        event.signal_received.MergeFromString(message.content)
        event.signal_received.undelivered = True
        return event
    if message.kind is InboxKind.CANCEL:
        event.cancel_requested.MergeFromString(message.content)
        return event
    return None
