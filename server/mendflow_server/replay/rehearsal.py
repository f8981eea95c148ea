"""Replay a history against code, without running a step and without writing anything.

A rehearsal drives the workflow function as a server would after a restart, up
to the point where it waits. It starts no steps and discards what the code would
record. So it can run beside a server that drives the same workflow.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from mendflow.errors import PayloadError
from mendflow.v1 import event_pb2
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import FINAL_DETAILS, History, UnknownEvent
from mendflow_server.history.timestamps import seconds
from mendflow_server.replay.workflow_runner import NonDeterminism, WorkflowRunner

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow.authoring.workflow import Workflow

__all__ = ["Rehearsal", "rehearse"]


class Rehearsal(NamedTuple):
    """The result of a rehearsal."""

    #: Why a server would pause the workflow; empty if it would not.
    problem: str = ""
    #: The recorded calls that the code has not made, although a server would not pause it.
    unclaimed: tuple[str, ...] = ()
    #: The calls marked as inserted that a server would start before recorded ones.
    inserted: tuple[str, ...] = ()
    #: Whether the code ends in an error.
    fails: bool = False
    #: How the code ends, as in "returned" or "raised KeyError: 'lamp'"; empty if it waits.
    ending: str = ""


def rehearse(
    workflow: Workflow[Any, Any], events: Iterable[bytes], *, payload_limit: int, now: float | None = None
) -> Rehearsal:
    """Replay stored events against the current code. For a finished history, the code must reach the same end.

    ``now`` is the time for new calls, in seconds since the epoch. The default is the time of the newest event.
    """
    history, newest = History(), event_pb2.Event()
    try:
        for data in events:
            newest = event_pb2.Event.FromString(data)
            history.apply(newest)
    except UnknownEvent as error:
        return Rehearsal(str(error))
    except Exception as error:  # noqa: BLE001 - a damaged history may fail anywhere
        return Rehearsal(f"the history cannot be read: {type(error).__name__}: {error}")
    if history.started is None:
        return Rehearsal("the history has no first event")
    builder = HistoryBuilder(history)
    builder.now = seconds(newest.time) if now is None else now
    try:
        argument = _argument(workflow, history.started)
        run = WorkflowRunner(workflow, builder, argument, payload_limit=payload_limit, is_rehearsal=True)
    except PayloadError as error:
        return Rehearsal(f"the workflow's recorded input no longer matches its type: {error}")
    try:
        run.begin()
        problem = _problem_of_end(run, history.final)
        fails = run.done and _end_of(run) == "workflow_failed"
        return Rehearsal(problem, tuple(run.unclaimed), tuple(run.inserted), fails, _ending(run))
    except NonDeterminism as error:
        return Rehearsal(str(error))
    finally:
        run.close()


def _argument(workflow: Workflow[Any, Any], started: event_pb2.Event) -> object:
    detail = started.workflow_started
    if workflow.input_type is None:
        return None
    return workflow.input_type.decode(detail.input if detail.HasField("input") else None)


def _ending(run: WorkflowRunner) -> str:
    """Return how the code ends, in words; empty if it waits."""
    if not run.done:
        return ""
    error = run.error
    if error is None:
        misfit = _misfit(run)
        return f"returned a value that does not match the workflow's type: {misfit}" if misfit else "returned"
    if isinstance(error, asyncio.CancelledError) and run.history.cancel:
        return "ended its clean-up"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the exception's class is the user's
        text = ""
    return f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"


def _misfit(run: WorkflowRunner) -> str:
    """Return why the returned value does not match the workflow's type; empty if it does."""
    try:
        run.workflow.output_type.encode(run.value)
    except PayloadError as error:
        return str(error) or "it has another type"
    return ""


def _problem_of_end(run: WorkflowRunner, final: event_pb2.Event | None) -> str:
    """Return how the end of the code differs from the end of a finished history; empty if it does not."""
    detail = None if final is None else final.WhichOneof("detail")
    if detail not in FINAL_DETAILS or final is None or detail == "workflow_terminated":
        return ""
    if final.workflow_cancelled.cut_keys or final.workflow_cancelled.reason or final.workflow_failed.reason:
        return ""  # The server ended it, not its code.
    if not run.done:
        return f"the history ends with {detail} (event {final.sequence}), but the code does not end"
    ended = _end_of(run)
    return (
        ""
        if ended == detail
        else f"the history ends with {detail} (event {final.sequence}), but the code ends with {ended}"
    )


def _end_of(run: WorkflowRunner) -> str:
    """Return the final event of code that has ended, by the name of its detail."""
    if run.error is None:
        return "workflow_failed" if _misfit(run) else "workflow_succeeded"
    if isinstance(run.error, asyncio.CancelledError) and run.history.cancel:
        return "workflow_cancelled"
    return "workflow_failed"
