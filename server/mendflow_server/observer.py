"""What is on disk is told: to the log, and as spans."""

from __future__ import annotations

import contextvars
import logging
from typing import TYPE_CHECKING

import structlog
from opentelemetry import context as otel_context

from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.telemetry import attempt_context

if TYPE_CHECKING:
    from mendflow_server.history import History
    from mendflow_server.store.protocol import Row
    from mendflow_server.telemetry.spans import SpanProjector

log = structlog.get_logger("mendflow.workflow")


class LogsAndSpans:
    """Tells of committed events. At info: starts, ends, failed attempts, recoveries, operators' acts."""

    def __init__(self, spans: SpanProjector | None) -> None:
        self._spans = spans
        self.traces = spans is not None or log.is_enabled_for(logging.DEBUG)
        self._logs = log.is_enabled_for(logging.INFO)

    def workflow_started(self, row: Row) -> None:
        """A new workflow is on disk."""
        if self._logs:
            log.info(
                "workflow_started",
                workflow_id=row.workflow_id,
                workflow_type=row.workflow_type,
                trace_id=row.trace_id,
            )

    def workflow_recovered(self, row: Row, event: event_pb2.Event) -> None:
        """A workflow was taken over."""
        log.info(
            "workflow_recovered",
            workflow_id=row.workflow_id,
            workflow_type=row.workflow_type,
            generation=row.generation,
            previous_replica_id=event.workflow_recovered.previous_replica_id,
            trace_id=row.trace_id,
        )

    def attempt_failed(self, row: Row, event: event_pb2.Event) -> None:
        """An attempt failed, was lost or was cancelled."""
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

    def attempt_closed(self, row: Row, history: History, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        """An attempt is closed: tell its span."""
        detail = started.attempt_started
        log.debug(
            "attempt_closed",
            workflow_id=row.workflow_id,
            step_key=detail.step_key,
            attempt=detail.attempt,
            outcome=closed.WhichOneof("detail"),
            trace_id=row.trace_id,
        )
        if self._spans is not None and history.started is not None:
            trace = history.started.workflow_started.trace
            self._spans.attempt_closed(trace, row.uid, row.workflow_id, row.workflow_type, started, closed)

    def workflow_ended(self, row: Row, history: History, final: event_pb2.Event) -> None:
        """A workflow has ended: tell its span."""
        if self._logs:
            state = workflow_pb2.WorkflowState.Name(workflow_pb2.WorkflowState.ValueType(row.state))
            log.info(
                "workflow_ended",
                workflow_id=row.workflow_id,
                workflow_type=row.workflow_type,
                state=state.removeprefix("WORKFLOW_STATE_"),
                seconds=round(((row.end_time or row.create_time) - row.create_time) / 1e6, 6),
                trace_id=row.trace_id,
            )
        if self._spans is not None and history.started is not None:
            trace = history.started.workflow_started.trace
            self._spans.workflow_ended(trace, row.uid, row.workflow_id, row.workflow_type, history.started, final)

    def operator_act(self, row: Row, event: event_pb2.Event) -> None:
        """Someone cancelled, resumed or terminated a workflow."""
        name = event.WhichOneof("detail") or ""
        detail = getattr(event, name)
        log.info(name, workflow_id=row.workflow_id, actor=detail.actor, reason=detail.reason, trace_id=row.trace_id)

    def alert(self, row: Row, event: event_pb2.Event) -> None:
        """An alert was raised."""
        detail = event.alert_raised
        log.warning(
            "alert",
            alert=detail.name,
            severity=event_pb2.AlertSeverity.Name(detail.severity).removeprefix("ALERT_SEVERITY_").lower(),
            message=detail.message,
            workflow_id=row.workflow_id,
            trace_id=row.trace_id,
        )

    def attempt_context(self, row: Row, history: History, step_key: str, number: int) -> contextvars.Context:
        """Answer the context variables that an attempt's code starts with: its span is the current one."""
        context = contextvars.Context()
        if self._spans is not None and history.started is not None:
            trace = history.started.workflow_started.trace
            context.run(otel_context.attach, attempt_context(trace, row.uid, step_key, number))
        return context
