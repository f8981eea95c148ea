"""Log committed events."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import structlog
from typing_extensions import override

from mendflow.tracebacks import place_of
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.telemetry.observer import Observer

if TYPE_CHECKING:
    from mendflow_server.history.state import History
    from mendflow_server.store.records import Row

__all__ = ["LogObserver"]

log = structlog.get_logger("mendflow.workflow")


class LogObserver(Observer):
    """Logs committed events.

    At info: starts, ends, failed attempts, recoveries and operators' acts. At warning: alerts. At error: workflows that
    have failed. At debug: closed attempts.
    """

    def __init__(self) -> None:
        self.traces = log.is_enabled_for(logging.DEBUG)
        self._logs_info = log.is_enabled_for(logging.INFO)

    @override
    def workflow_started(self, row: Row) -> None:
        """Log the start of a workflow."""
        if self._logs_info:
            log.info(
                "workflow_started",
                workflow_id=row.workflow_id,
                workflow_type=row.workflow_type,
                trace_id=row.trace_id,
            )

    @override
    def workflow_recovered(self, row: Row, event: event_pb2.Event) -> None:
        """Log the takeover of a workflow by a new driver."""
        log.info(
            "workflow_recovered",
            workflow_id=row.workflow_id,
            workflow_type=row.workflow_type,
            generation=row.generation,
            previous_replica_id=event.workflow_recovered.previous_replica_id,
            trace_id=row.trace_id,
        )

    @override
    def attempt_failed(self, row: Row, event: event_pb2.Event) -> None:
        """Log an attempt that failed, was lost or was cancelled."""
        detail = event.attempt_failed
        log.info(
            "attempt_failed",
            workflow_id=row.workflow_id,
            step_key=detail.step_key,
            attempt=detail.attempt,
            kind=failure_pb2.FailureKind.Name(detail.failure.kind).removeprefix("FAILURE_KIND_").lower(),
            type=detail.failure.type,
            message=detail.failure.message,
            action=failure_pb2.RetryAction.Name(detail.decision.action).removeprefix("RETRY_ACTION_").lower(),
            explanation=detail.decision.explanation,
            trace_id=row.trace_id,
        )

    @override
    def attempt_closed(self, row: Row, history: History, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        """Log an attempt that is closed."""
        detail = started.attempt_started
        log.debug(
            "attempt_closed",
            workflow_id=row.workflow_id,
            step_key=detail.step_key,
            attempt=detail.attempt,
            outcome=closed.WhichOneof("detail"),
            trace_id=row.trace_id,
        )

    @override
    def workflow_ended(self, row: Row, history: History, final: event_pb2.Event) -> None:
        """Log the end of a workflow; for one that has failed, with its causes and the places in the user's code."""
        if final.HasField("workflow_failed"):
            self._failed(row, final.workflow_failed.failure)
        elif self._logs_info:
            state = workflow_pb2.WorkflowState.Name(workflow_pb2.WorkflowState.ValueType(row.state))
            log.info(
                "workflow_ended",
                workflow_id=row.workflow_id,
                workflow_type=row.workflow_type,
                state=state.removeprefix("WORKFLOW_STATE_"),
                seconds=_seconds(row),
                trace_id=row.trace_id,
            )

    def _failed(self, row: Row, failure: failure_pb2.Failure) -> None:
        causes = []
        cause = failure
        while cause.HasField("cause"):
            cause = cause.cause
            causes.append(_described(cause))
        log.error(
            "workflow_ended",
            workflow_id=row.workflow_id,
            workflow_type=row.workflow_type,
            state="FAILED",
            **_described(failure),
            causes=causes,
            seconds=_seconds(row),
            trace_id=row.trace_id,
        )

    @override
    def operator_act(self, row: Row, event: event_pb2.Event) -> None:
        """Log an operator's cancel, resume or terminate."""
        name = event.WhichOneof("detail") or ""
        detail = getattr(event, name)
        log.info(name, workflow_id=row.workflow_id, actor=detail.actor, reason=detail.reason, trace_id=row.trace_id)

    @override
    def alert(self, row: Row, event: event_pb2.Event) -> None:
        """Log an alert."""
        detail = event.alert_raised
        log.warning(
            "alert",
            alert=detail.name,
            severity=event_pb2.AlertSeverity.Name(detail.severity).removeprefix("ALERT_SEVERITY_").lower(),
            message=detail.message,
            workflow_id=row.workflow_id,
            trace_id=row.trace_id,
        )


def _seconds(row: Row) -> float:
    """Return how long a workflow took."""
    return round(((row.end_time or row.create_time) - row.create_time) / 1e6, 6)


def _described(failure: failure_pb2.Failure) -> dict[str, str]:
    described = {"type": failure.type, "message": failure.message, "place": place_of(failure.traceback)}
    if failure.step_key:
        described["step_key"] = failure.step_key
    return {name: text for name, text in described.items() if text}
