"""The current workflow run and the current attempt, which the authoring functions use.

A runner drives workflow code with one ``send`` at a time, in a context of its
own in which `current_run` returns the run. An attempt's code runs in another
context, in which `attempt` returns the attempt. In any other context both are
absent and the authoring functions behave like plain functions. A workflow that
is called by hand has a run too (`mendflow.authoring.by_hand`), so that unit tests
need no server.
"""

from __future__ import annotations

import contextvars
import operator
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mendflow.errors import NotDurable, NotInWorkflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

__all__ = ["Attempt", "WorkflowInfo", "attempt", "current_run", "progress", "workflow_info"]


#: The largest number that an event can hold.
MOST = 2**63 - 1
#: The longest message of a progress report, in characters.
LONGEST_MESSAGE = 1_000


class CurrentRun(Protocol):
    """The part of a workflow run that the authoring functions use."""

    #: True while the runner executes workflow code.
    driving: bool

    @property
    def replaying(self) -> bool:
        """Whether the code repeats what the history records."""

    @property
    def info(self) -> WorkflowInfo:
        """What the code may know of its workflow."""

    @property
    def time(self) -> float:
        """The time that a new `now()` records, in seconds since the epoch."""

    def call_made(self, call: object) -> None:
        """Register a call that workflow code made and must await before it ends."""

    def forgotten(self, what: str) -> None:
        """Record that workflow code dropped something that it must await."""

    def record_value(self, name: str, make: Callable[[], str]) -> str:
        """Return the JSON text recorded under the next key of ``name``. If there is none, record ``make()``."""

    def version(self, name: str) -> bool:
        """Return the recorded decision for this name. If there is none, decide and record it."""

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Report the workflow's progress."""


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """What workflow code may know of its own workflow. It is the same in every replay."""

    workflow_id: str
    workflow_type: str
    #: When the workflow started (UTC).
    start_time: datetime
    labels: Mapping[str, str]


RUN: contextvars.ContextVar[CurrentRun | None] = contextvars.ContextVar("mendflow_run", default=None)
ATTEMPT: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("mendflow_attempt", default=None)


def current_run(verb: object) -> CurrentRun | None:
    """Return the current workflow run, or None outside a workflow.

    Raise `NotDurable` if workflow code uses ``verb`` from its own task or thread. The message has ``str(verb)``.
    """
    run = RUN.get()
    if run is not None and not run.driving:
        msg = (
            f"{verb} was called from a task that the workflow does not control, so it cannot be replayed. "
            "Await it in the workflow function, or run branches concurrently with mendflow.gather()."
        )
        raise NotDurable(msg)
    return run


def workflow_info() -> WorkflowInfo:
    """Return the id, the type, the start time and the labels of the workflow whose code calls this.

    Raise `NotInWorkflow` outside workflow code. A step has them in `attempt`.
    """
    run = current_run("workflow_info()")
    if run is None:
        msg = "workflow_info() works only inside a workflow; a step has workflow_id and workflow_type in attempt()"
        raise NotInWorkflow(msg)
    return run.info


class Attempt:
    """One execution of a step, as the step's code sees it.

    ``number`` counts from 1 and includes lost attempts. ``idempotency_key`` is
    the same for every attempt of this step, also after a crash; pass it to the
    system that makes the effect. ``deadline`` is the time (UTC) at which the
    server cancels the attempt; None means no timeout. ``last_heartbeat`` has
    the details of the newest `heartbeat` of an earlier attempt, or None.
    """

    def __init__(
        self,
        *,
        workflow_id: str = "",
        workflow_type: str = "",
        step_key: str = "",
        number: int = 1,
        idempotency_key: str = "",
        deadline: datetime | None = None,
        last_heartbeat: Any = None,
    ) -> None:
        self.workflow_id = workflow_id
        self.workflow_type = workflow_type
        self.step_key = step_key
        self.number = number
        self.idempotency_key = idempotency_key or uuid.uuid4().hex
        self._deadline = deadline
        self.last_heartbeat = last_heartbeat

    @property
    def deadline(self) -> datetime | None:
        """The time (UTC) at which the server cancels the attempt; None means no timeout."""
        return self._deadline

    def heartbeat(self, details: Any = None) -> None:
        """Store ``details`` (any JSON value) for the next attempt, in case this attempt does not succeed.

        The server writes the latest details at most once a second, and before
        the attempt closes. On a thread, raise `asyncio.CancelledError` if the
        attempt was cancelled or timed out. Outside a workflow, do nothing.
        """

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Report this attempt's progress. Code calls `progress` instead."""


def attempt() -> Attempt:
    """Return the attempt that runs this code, or a new independent attempt outside a workflow."""
    return ATTEMPT.get() or Attempt()


def checked_progress(done: int, total: int, message: str) -> tuple[int, int, str]:
    """Return a progress report in the form that an event holds.

    Raise TypeError if a number is no integer, and ValueError if it is outside 0 to 2**63 - 1.
    """
    numbers = operator.index(done), operator.index(total)
    for name, value in zip(("done", "total"), numbers, strict=True):
        if not 0 <= value <= MOST:
            msg = f"progress(): {name} must be from 0 to {MOST} (2**63 - 1), not {value}"
            raise ValueError(msg)
    return *numbers, str(message)[:LONGEST_MESSAGE].encode("utf-8", "replace").decode()


def progress(done: int, total: int = 0, message: str = "") -> None:
    """Report that the step or the workflow has completed ``done`` of ``total`` units; a total of 0 means unknown.

    Watchers see at most one report a second, and always the last one. A message
    is truncated to 1,000 characters. Outside a workflow, do nothing.

    Raise TypeError if a number is no integer, and ValueError if it is outside 0 to 2**63 - 1.
    """
    done, total, message = checked_progress(done, total, message)
    running = ATTEMPT.get()
    if running is not None:
        running.report_progress(done, total, message)
        return
    run = current_run("progress()")
    if run is not None:
        run.report_progress(done, total, message)
