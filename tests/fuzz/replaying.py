"""Whether the code's decisions in a replay of a part of a history are the ones that the rest of the history records.

A prefix is replayed as the engine would, whatever it ends with. One kind is left out, because the engine never sees it:
a prefix that ends within events that the engine writes together without running the code. Examples are several attempts
that died with one process, and the close of open calls when a workflow is ended from outside. While a workflow is
stopped its code does not run, and decides nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mendflow.v1 import event_pb2, failure_pb2
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import FINAL_DETAILS, History
from mendflow_server.history.timestamps import seconds
from mendflow_server.replay.workflow_runner import NonDeterminism, WorkflowRunner

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mendflow import Workflow
    from mendflow.v1.event_pb2 import Event

LIMIT = 1 << 20
#: The events that workflow code decides, and the start of a step's first attempt.
_DECIDED = {"timer_started", "signal_awaited", "signal_taken", "value_recorded", "call_cancelled"}
#: The events that neither decide anything nor are a decision.
_SAID = {"progress_reported", "alert_raised", "workflow_recovered"}
#: The events after which a workflow's code may run again, or never runs again.
_CONTINUES = {"workflow_resumed", "cancel_requested", *FINAL_DETAILS}

Decision = tuple[str | bytes, ...]


class Retelling(HistoryBuilder):
    """A builder that returns the recorded value when the code requests the value again.

    So whatever the code derives from the value must also be as recorded.
    """

    __slots__ = ("_later",)

    def __init__(self, history: History, later: Iterable[Event]) -> None:
        super().__init__(history)
        recorded = (event.value_recorded for event in later if event.HasField("value_recorded"))
        self._later = {each.key: each.value for each in recorded}

    def add(self, event: Event) -> None:
        """Add the event."""
        value = self._later.get(event.value_recorded.key) if event.HasField("value_recorded") else None
        if value is not None:
            event.value_recorded.value.CopyFrom(value)
        super().add(event)


def replayed(
    workflow: Workflow[Any, Any], argument: object, events: Sequence[Event], later: Iterable[Event] = ()
) -> WorkflowRunner:
    """Return a new run that has replayed these events and runs until it waits. ``later`` has values for it."""
    builder = Retelling(folded(events), later)
    builder.now = 1_000_000.0
    run = WorkflowRunner(workflow, builder, argument, payload_limit=LIMIT)
    try:
        run.begin()
    except NonDeterminism:
        run.close()
        raise
    return run


def folded(events: Iterable[Event]) -> History:
    """Return the fold of these events."""
    history = History()
    for event in events:
        history.apply(event)
    return history


def argument_of(workflow: Workflow[Any, Any], events: Sequence[Event]) -> object:
    """Return the input with which a recorded workflow was started."""
    started = events[0].workflow_started
    if workflow.input_type is None:
        return None
    return workflow.input_type.decode(started.input if started.HasField("input") else None)


def faults_of_prefixes(workflow: Workflow[Any, Any], argument: object, events: Sequence[Event]) -> list[str]:
    """Replay every prefix, and return where the code's decisions differ from the history."""
    return [fault for length in range(1, len(events)) for fault in faults_of_prefix(workflow, argument, events, length)]


def faults_of_prefix(workflow: Workflow[Any, Any], argument: object, events: Sequence[Event], length: int) -> list[str]:
    """Replay the first ``length`` events, and return where the code's decisions differ from the history."""
    rest = events[length:]
    if folded(events[:length]).stopped:
        return [f"after {length} events: decided while stopped: {each}" for each in _decided_while_stopped(rest)]
    if _is_inside_one_act(events[length - 1], rest):
        return []
    try:
        run = replayed(workflow, argument, events[:length], rest)
    except NonDeterminism as error:
        return [f"after {length} events: {error}"]
    expected, next_event = _recorded(rest, ended=run.done)
    decided = _decided(run)
    wrong = [] if decided == expected else [f"after {length} events decided {decided}, recorded is {expected}"]
    by_code = next_event is not None and _is_end_by_code(next_event)
    if run.done != by_code:
        wrong.append(f"after {length} events {'done' if run.done else 'not done'}, recorded is {next_event}")
    elif run.done and next_event is not None and not wrong:
        wrong += _faults_of_end(run, next_event)
    run.close()
    return wrong


def _decided_while_stopped(rest: Sequence[Event]) -> list[Decision]:
    decided = []
    for event in rest:
        if event.WhichOneof("detail") in _CONTINUES:
            break
        decision = _decision(event)
        if decision is not None:
            decided.append(decision)
    return decided


def _is_inside_one_act(last: Event, rest: Sequence[Event]) -> bool:
    """Return whether the engine wrote this event and the next ones together, without running the code in between."""
    if is_lost(last) and (is_lost(rest[0]) or rest[0].HasField("workflow_quarantined")):
        return True
    if _closes(last):
        return True
    # A cancel that arrived during the termination is kept, and has no further effect.
    late = all(event.signal_received.undelivered for event in rest[:-1])
    return last.HasField("cancel_requested") and late and rest[-1].HasField("workflow_terminated")


def is_lost(event: Event) -> bool:
    """Return whether an attempt died with its process."""
    return event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST


def _closes(event: Event) -> bool:
    """Return whether the event closes an attempt because the workflow ends."""
    return event.attempt_failed.decision.reason == failure_pb2.RETRY_REASON_WORKFLOW_ENDED


def _is_end_by_code(event: Event) -> bool:
    """Return whether the event ends the workflow as its code ended, and not from outside."""
    detail = event.WhichOneof("detail")
    if detail not in FINAL_DETAILS or detail == "workflow_terminated":
        return False
    cut = event.workflow_cancelled.cut_keys or event.workflow_cancelled.reason
    return not (cut or event.workflow_failed.reason == event_pb2.STATE_REASON_HISTORY_LIMIT)


def _recorded(rest: Sequence[Event], *, ended: bool) -> tuple[list[Decision], Event | None]:
    """Return the decisions with which the rest begins, and the first event that is none."""
    decisions: list[Decision] = []
    for event in rest:
        decision = _decision(event)
        if decision is not None:
            decisions.append(decision)
        elif not (_is_nothing_to_the_code(event) or (ended and _came_too_late(event))):
            return decisions, event
    return decisions, None


def _is_nothing_to_the_code(event: Event) -> bool:
    return event.WhichOneof("detail") in _SAID or event.attempt_started.attempt > 1 or _closes(event)


def _came_too_late(event: Event) -> bool:
    """Return whether the event reached the history only after the code had ended, in the final event's commit."""
    return event.signal_received.undelivered or event.HasField("cancel_requested")


def _decided(run: WorkflowRunner) -> list[Decision]:
    """Return the decisions of the code beyond its history, in order."""
    decisions = [decision for event in run.builder.pending if (decision := _decision(event)) is not None]
    for key in run.newly_wanted:
        if key in run.wanted and key not in run.history.calls:
            call, payload = run.wanted[key]
            decisions.append(("attempt_started", key, call.step.name, payload.SerializeToString(deterministic=True)))
    return decisions


def _decision(event: Event) -> Decision | None:
    """Return the decision of workflow code in this event, or None if there is none."""
    kind = event.WhichOneof("detail") or ""
    detail: Any = getattr(event, kind)
    if kind == "attempt_started" and detail.attempt == 1:
        return (kind, detail.step_key, detail.step_name, detail.input.SerializeToString(deterministic=True))
    if kind not in _DECIDED:
        return None
    return (kind, detail.key, *_particulars(event))


def _particulars(event: Event) -> Decision:
    """Return what belongs to a decision besides its key. Times count from the event's own."""
    match event.WhichOneof("detail"):
        case "timer_started":
            return (f"{seconds(event.timer_started.fire_time) - seconds(event.time):.4f}",)
        case "signal_awaited":
            awaited = event.signal_awaited
            within = f"{seconds(awaited.deadline) - seconds(event.time):.4f}" if awaited.HasField("deadline") else ""
            return (awaited.name, within)
        case "signal_taken":
            return (str(event.signal_taken.signal_sequence),)
        case "value_recorded":
            return (event.value_recorded.value.json,)
        case _:
            return ()


def _faults_of_end(run: WorkflowRunner, final: Event) -> list[str]:
    kind = final.WhichOneof("detail")
    if run.error is None:
        output = run.workflow.output_type.encode(run.value)
        kept = kind == "workflow_succeeded" and final.workflow_succeeded.output == output
    elif isinstance(run.error, asyncio.CancelledError) and run.history.cancel:
        kept = kind == "workflow_cancelled"
    else:
        kept = kind == "workflow_failed" and str(run.error) in final.workflow_failed.failure.message
    return [] if kept else [f"ended with {run.value!r} or {run.error!r}, recorded is {final}"]
