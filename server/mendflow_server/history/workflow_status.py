"""Derive a workflow's status from its history, by one rule per state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.history.state import FINAL_DETAILS

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from mendflow_server.history.state import CallRecord, History


#: Rows have at most this many characters of an explanation; the event has all of it.
LONGEST_EXPLANATION: Final = 1_000


class WorkflowStatus(NamedTuple):
    """The part of a row that follows from the history."""

    state: int
    reason: int = 0
    explanation: str = ""
    #: When the workflow resumes without outside input, in seconds since the epoch; None if it does not.
    wake: float | None = None


_RUNNING: Final = WorkflowStatus(workflow_pb2.WORKFLOW_STATE_RUNNING)


def due_time(record: CallRecord) -> float | None:
    """Return when an open call is due without outside input, in seconds since the epoch; None if it never is."""
    return record.wake_time if record.kind != "step" else record.next_attempt_time


def next_time(history: History, now: float, is_unattended: Callable[[str], bool]) -> float | None:
    """Return when to examine the workflow next, in seconds since the epoch; None if no time is known.

    Other code usually starts a step that is already due. ``is_unattended`` returns whether no other code will start
    the step with this key.
    """
    if history.stopped:
        return history.cleanup_deadline
    times = [
        time
        for record in history.open.values()
        if not record.paused
        and (time := due_time(record)) is not None
        and (record.kind != "step" or time > now or is_unattended(record.key))
    ]
    if history.cleanup_deadline is not None:
        times.append(history.cleanup_deadline)
    return min(times, default=None)


def wake_time(history: History, wanted: Container[str] | None) -> float | None:
    """Return when the first open call is due without outside input; see `derive_status` for ``wanted``."""
    times = [
        time
        for record in history.open.values()
        if not record.paused and (time := due_time(record)) is not None and _counts(record, wanted)
    ]
    if history.cleanup_deadline is not None:
        times.append(history.cleanup_deadline)
    return min(times, default=None)


def _counts(record: CallRecord, wanted: Container[str] | None) -> bool:
    """Return whether the code still waits for an open call. A step that was removed from the code never resumes."""
    return wanted is None or record.kind != "step" or record.started is not None or record.key in wanted


def derive_status(
    history: History,
    *,
    busy: bool,
    slot_waits: int,
    code_waits: Container[str] = (),
    wanted: Container[str] | None = None,
) -> WorkflowStatus:
    """Return the status of a workflow.

    ``busy`` says that its code is about to run. ``slot_waits`` is the number of attempts that wait for a slot.
    ``code_waits`` has the keys of the steps that wait until the code of an earlier attempt ends. ``wanted`` has the
    keys of the steps that the code waits for; None stands for all open steps.
    """
    if history.final is not None:
        return _final(history.final)
    if history.stopped:
        why = history.stopped_explanation[:LONGEST_EXPLANATION]
        return WorkflowStatus(history.stopped, history.stopped_reason, why, wake=history.cleanup_deadline)
    if history.cancel:
        return WorkflowStatus(workflow_pb2.WORKFLOW_STATE_CANCELLING, wake=wake_time(history, wanted))
    if busy:
        return _RUNNING
    for record in history.open.values():
        if record.started is not None:
            return _RUNNING
    return _waiting(history, slot_waits, code_waits, wanted)


def _final(event: event_pb2.Event) -> WorkflowStatus:
    detail = event.WhichOneof("detail") or ""
    reason = 0
    if detail == "workflow_failed":
        reason = event.workflow_failed.reason
    elif detail == "workflow_cancelled":
        reason = event.workflow_cancelled.reason
    return WorkflowStatus(FINAL_DETAILS[detail], reason)


def _waiting(
    history: History, slot_waits: int, code_waits: Container[str], wanted: Container[str] | None
) -> WorkflowStatus:
    waiting = workflow_pb2.WORKFLOW_STATE_WAITING
    wake = wake_time(history, wanted)
    if slot_waits:
        return WorkflowStatus(waiting, event_pb2.STATE_REASON_SLOT, f"attempts waiting for a slot: {slot_waits}", wake)
    held = [record.key for record in history.open.values() if record.held]
    if held:
        return WorkflowStatus(waiting, event_pb2.STATE_REASON_SUSPECTED, ", ".join(held[:5]), wake)
    running = [
        f"attempt {record.attempt} of {record.key}" for record in history.open.values() if record.key in code_waits
    ]
    if running:
        why = f"hung code of {', '.join(running[:5])}"
        return WorkflowStatus(waiting, event_pb2.STATE_REASON_THREAD, why, wake)
    counting = [record for record in history.open.values() if _counts(record, wanted)]
    first = min(counting, key=lambda record: due_time(record) or float("inf"), default=None)
    if first is None:
        return _RUNNING
    if first.kind == "step":
        reason = event_pb2.STATE_REASON_BACKOFF
    elif first.kind == "timer":
        reason = event_pb2.STATE_REASON_TIMER
    else:
        reason = event_pb2.STATE_REASON_SIGNAL
    explanation = first.name if first.kind == "signal" else first.key
    if first.kind == "step":
        explanation = f"{first.key}, attempt {first.attempt + 1}"
    return WorkflowStatus(waiting, reason, explanation, wake)
