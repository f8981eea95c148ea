"""Replaying a history against code, with nothing run and nothing written.

A rehearsal drives the workflow function as a server would after a restart, up
to where it rests. Steps are only asked for, and what the code would record is
dropped. So it can be had beside a server that drives the same workflow.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from mendflow.errors import PayloadError
from mendflow_server.history import FINAL_DETAILS, History, UnknownEvent, seconds
from mendflow_server.journal import Journal
from mendflow_server.run import NonDeterminism, Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow.v1 import event_pb2
    from mendflow.workflow import Workflow

__all__ = ["Rehearsal", "rehearse"]


class Rehearsal(NamedTuple):
    """What became of it."""

    #: Why a server would pause the workflow; empty: it would go on.
    problem: str = ""
    #: Recorded calls that the code has not made, though it would go on.
    unclaimed: tuple[str, ...] = ()


def rehearse(workflow: Workflow[Any, Any], events: Iterable[bytes], *, payload_limit: int) -> Rehearsal:
    """Replay stored events against the code of now. A finished history must lead to its end."""
    try:
        history = History.of(events)
    except UnknownEvent as error:
        return Rehearsal(str(error))
    started, final = history.started, history.final
    if started is None:
        return Rehearsal("the history has no first event")
    journal = Journal(history)
    journal.now = seconds((final or started).time)
    try:
        run = Run(workflow, journal, _argument(workflow, started), payload_limit=payload_limit)
    except PayloadError as error:
        return Rehearsal(f"the workflow's recorded input does not fit its type any more: {error}")
    try:
        run.begin()
        return Rehearsal(_problem_of_end(run, final), tuple(run.unclaimed))
    except NonDeterminism as error:
        return Rehearsal(str(error))
    finally:
        run.close()


def _argument(workflow: Workflow[Any, Any], started: event_pb2.Event) -> object:
    detail = started.workflow_started
    if workflow.input_type is None:
        return None
    return workflow.input_type.decode(detail.input if detail.HasField("input") else None)


def _fits(run: Run) -> bool:
    """Return whether what the code returned is a value of the workflow's type."""
    try:
        run.workflow.output_type.encode(run.value)
    except PayloadError:
        return False
    return True


def _problem_of_end(run: Run, final: event_pb2.Event | None) -> str:
    """Return how the code ends otherwise than a finished history; empty: it does not."""
    detail = None if final is None else final.WhichOneof("detail")
    if detail not in FINAL_DETAILS or final is None or detail == "workflow_terminated":
        return ""
    if final.workflow_cancelled.cut_keys or final.workflow_cancelled.reason or final.workflow_failed.reason:
        return ""  # The server ended it, not its code.
    if not run.done:
        return f"the history ends with {detail} (event {final.sequence}), but the code goes on"
    if run.error is None:
        ended = "workflow_succeeded" if _fits(run) else "workflow_failed"
    elif isinstance(run.error, asyncio.CancelledError) and run.history.cancel:
        ended = "workflow_cancelled"
    else:
        ended = "workflow_failed"
    return "" if ended == detail else f"the history ends with {detail} (event {final.sequence}), the code with {ended}"
