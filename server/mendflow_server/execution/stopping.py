"""The events that stop a workflow until it is resumed, and their alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2

if TYPE_CHECKING:
    from mendflow.v1 import failure_pb2
    from mendflow_server.execution.unit_of_work import UnitOfWork
    from mendflow_server.history.builder import HistoryBuilder


def pause(
    builder: HistoryBuilder,
    unit: UnitOfWork,
    reason: event_pb2.StateReason.ValueType,
    explanation: str,
    step_key: str,
    failure: failure_pb2.Failure | None = None,
) -> None:
    """Record that the workflow pauses; ``failure`` is the error of its function, if that is the reason."""
    event = builder.new()
    event.workflow_paused.reason = reason
    event.workflow_paused.explanation = explanation
    event.workflow_paused.step_key = step_key
    if failure is not None:
        event.workflow_paused.failure.CopyFrom(failure)
    builder.add(event)
    name = event_pb2.StateReason.Name(reason).removeprefix("STATE_REASON_").lower()
    unit.raise_alert(f"workflow_paused_{name}", event_pb2.ALERT_SEVERITY_WARNING, explanation)


def quarantine(builder: HistoryBuilder, unit: UnitOfWork, step_key: str, crashes: int) -> None:
    """Record that the workflow is quarantined, because it has crashed the server so many times.

    ``step_key`` is empty for the workflow function.
    """
    what = f"step {step_key}" if step_key else "its workflow function"
    explanation = (
        f"the server crashed {crashes} times with {what} running alone; it does not run until it is resumed "
        "(mendflow resume) or terminated (mendflow terminate)"
    )
    event = builder.new()
    event.workflow_quarantined.step_key = step_key
    event.workflow_quarantined.crashes = crashes
    event.workflow_quarantined.explanation = explanation
    builder.add(event)
    unit.raise_alert("workflow_quarantined", event_pb2.ALERT_SEVERITY_CRITICAL, explanation)


def after_error(failure: failure_pb2.Failure) -> str:
    """Return why a workflow pauses whose function raised an error."""
    raised = f"{failure.type}: {failure.message}".removesuffix(": ")
    return (
        f"the workflow function raised {raised}; serve code that does not, and the workflow resumes when the server "
        "starts, or end it (mendflow cancel)"
    )


def after_faults(error: str, error_id: str) -> str:
    """Return why a workflow pauses when the server met an internal error in it twice in a row."""
    return (
        f"internal error of the server, twice in a row ({error}); search the server log for error_id "
        f"{error_id}, then resume the workflow to try again"
    )
