"""Whether what the code decides in a replay of a part of a history is what the rest of the history says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mendflow_server.history import FINAL_DETAILS, History
from mendflow_server.journal import Journal
from mendflow_server.run import NonDeterminism, Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow import Workflow
    from mendflow.v1.event_pb2 import Event

LIMIT = 1 << 20
#: What workflow code decides; the start of a step's first attempt besides.
_DECIDED = {"timer_started", "signal_awaited", "signal_taken", "value_recorded", "call_cancelled"}
#: What decides nothing, and is nobody's decision.
_SAID = {"progress_reported", "alert_raised", "workflow_recovered"}

Decision = tuple[str, ...]


def replayed(workflow: Workflow[Any, Any], argument: object, events: Sequence[Event]) -> Run:
    """Answer a new run that has replayed these events and gone on until it waits."""
    history = History()
    for event in events:
        history.apply(event)
    journal = Journal(history)
    journal.now = 1_000_000.0
    run = Run(workflow, journal, argument, payload_limit=LIMIT)
    try:
        run.begin()
    except NonDeterminism:
        run.close()
        raise
    return run


def faults_of_prefix(workflow: Workflow[Any, Any], argument: object, events: Sequence[Event], length: int) -> list[str]:
    """Replay the first ``length`` events; answer where the code goes on in another way than the history does."""
    try:
        run = replayed(workflow, argument, events[:length])
    except NonDeterminism as error:
        return [f"after {length} events: {error}"]
    expected, next_event = _recorded(events[length:], ended=run.done)
    decided = _decided(run)
    if any(kind == "value_recorded" for kind, *_ in decided):
        # The values are new ones, and so may be the inputs made of them.
        expected, decided = [each[:2] for each in expected], [each[:2] for each in decided]
    wrong = [] if decided == expected else [f"after {length} events decided {decided}, recorded is {expected}"]
    detail = None if next_event is None else next_event.WhichOneof("detail")
    if run.done != (detail in FINAL_DETAILS):
        wrong.append(f"after {length} events {'done' if run.done else 'not done'}, recorded is {detail}")
    elif run.done and next_event is not None and not wrong:
        wrong += _faults_of_end(run, next_event)
    run.close()
    return wrong


def _recorded(rest: Sequence[Event], *, ended: bool) -> tuple[list[Decision], Event | None]:
    """Answer the decisions with which the rest begins, and the first event that is none."""
    decisions: list[Decision] = []
    for event in rest:
        decision = _decision(event)
        if decision is not None:
            decisions.append(decision)
        elif event.WhichOneof("detail") not in _SAID and not (ended and _came_too_late(event)):
            return decisions, event
    return decisions, None


def _came_too_late(event: Event) -> bool:
    """Whether it reached the history only after the code had ended, in the final event's commit."""
    return event.signal_received.undelivered or event.HasField("cancel_requested")


def _decided(run: Run) -> list[Decision]:
    """Answer what the code has decided beyond its history, in order."""
    decisions = [decision for event in run.journal.pending if (decision := _decision(event)) is not None]
    for key in run.asked:
        if key in run.wanted and key not in run.history.calls:
            call, payload = run.wanted[key]
            decisions.append(("attempt_started", key, call.step.name, payload.json))
    return decisions


def _decision(event: Event) -> Decision | None:
    """Answer what workflow code decided with this event; None: nothing."""
    kind = event.WhichOneof("detail") or ""
    detail: Any = getattr(event, kind)
    if kind == "attempt_started" and detail.attempt == 1:
        return (kind, detail.step_key, detail.step_name, detail.input.json)
    if kind not in _DECIDED:
        return None
    more = str(getattr(detail, "signal_sequence", "")) or getattr(detail, "name", "")
    return (kind, detail.key, more)


def _faults_of_end(run: Run, final: Event) -> list[str]:
    kind = final.WhichOneof("detail")
    if run.error is None:
        output = run.workflow.output_type.encode(run.value)
        kept = kind == "workflow_succeeded" and final.workflow_succeeded.output == output
    elif isinstance(run.error, asyncio.CancelledError) and run.history.cancel:
        kept = kind == "workflow_cancelled"
    else:
        kept = kind == "workflow_failed" and str(run.error) in final.workflow_failed.failure.message
    return [] if kept else [f"ended with {run.value!r} or {run.error!r}, recorded is {final}"]
