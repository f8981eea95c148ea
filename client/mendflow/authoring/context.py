"""What authoring verbs talk to: the run that is being driven, and the attempt that executes.

A run drives workflow code by hand, one ``send`` at a time, inside a context of
its own in which `current_run` answers it. The code of an attempt runs in
another context, in which `attempt` answers it. Elsewhere both are absent, and
the verbs do what a plain function would, so that unit tests need no server.
"""

from __future__ import annotations

import contextvars
import operator
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from mendflow.errors import NotDurable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

__all__ = ["Attempt", "attempt", "current_run", "progress"]


#: The largest number that an event can hold, and the longest message that a report may have.
MOST = 2**63 - 1
LONGEST_MESSAGE = 1_000


class CurrentRun(Protocol):
    """What a run offers to authoring verbs."""

    #: True while the run itself has the loop.
    driving: bool

    @property
    def time(self) -> float:
        """The time for a new `now()`, in seconds since the epoch."""

    def call_made(self, call: object) -> None:
        """Note a call that workflow code has made; it must await it before it ends."""

    def forgotten(self, what: str) -> None:
        """Note that workflow code has dropped something that it had to await."""

    def record_value(self, name: str, make: Callable[[], str]) -> str:
        """Return the JSON text recorded under the next key of ``name``; ``make`` makes a new one."""

    def version(self, name: str) -> bool:
        """Return the recorded decision of this name, or decide it."""

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Tell how far the workflow is."""


RUN: contextvars.ContextVar[CurrentRun | None] = contextvars.ContextVar("mendflow_run", default=None)
#: A workflow function was called by hand, as a test does: its steps are awaited, and run at once.
BY_HAND: contextvars.ContextVar[bool] = contextvars.ContextVar("mendflow_by_hand", default=False)
ATTEMPT: contextvars.ContextVar[Attempt | None] = contextvars.ContextVar("mendflow_attempt", default=None)


def current_run(verb: object) -> CurrentRun | None:
    """Answer the run that is being driven; None outside a workflow.

    Raises `NotDurable` when workflow code uses ``verb`` (its ``str`` names it) from a task or thread of its own.
    """
    run = RUN.get()
    if run is not None and not run.driving:
        msg = (
            f"{verb} was used from a task that the workflow does not know, so it could not be replayed. "
            "Await it in the workflow function, or run branches side by side with mendflow.gather()."
        )
        raise NotDurable(msg)
    return run


class Attempt:
    """One try of a step, as its code sees it.

    ``number`` counts from 1, lost attempts too. ``idempotency_key`` is the same
    for every attempt of this step, across crashes: pass it to whatever makes
    the effect. ``deadline`` is when the attempt is cut off (UTC), None without
    a timeout. ``last_heartbeat`` holds the details of the newest `heartbeat` of
    an earlier attempt, None when there was none.
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
        """When the attempt is cut off (UTC); None without a timeout."""
        return self._deadline

    def heartbeat(self, details: Any = None) -> None:
        """Keep ``details`` (any JSON value) for the next attempt, should this one not end well.

        The latest is written at most once a second, and before the attempt
        closes. On a thread it raises `asyncio.CancelledError` once the attempt
        has been cancelled or has timed out. Outside a workflow it does nothing.
        """

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Tell how far this attempt is; what `progress` calls."""


def attempt() -> Attempt:
    """Answer the attempt that runs this code; outside a workflow, one that stands alone."""
    return ATTEMPT.get() or Attempt()


def checked_progress(done: int, total: int, message: str) -> tuple[int, int, str]:
    """Return a progress report as an event can hold it. Raise TypeError or ValueError for one that none can."""
    numbers = operator.index(done), operator.index(total)
    for name, value in zip(("done", "total"), numbers, strict=True):
        if not 0 <= value <= MOST:
            msg = f"progress(): {name} must be from 0 to {MOST} (2**63 - 1), not {value}"
            raise ValueError(msg)
    return *numbers, str(message)[:LONGEST_MESSAGE].encode("utf-8", "replace").decode()


def progress(done: int, total: int = 0, message: str = "") -> None:
    """Tell how far the step or the workflow is: ``done`` of ``total`` (0: not known).

    Watchers see at most one report a second, and always the last. A message
    is cut at 1,000 characters. Outside a workflow it does nothing.

    Raises TypeError for what is no whole number, ValueError for one below 0 or above 2**63 - 1.
    """
    done, total, message = checked_progress(done, total, message)
    running = ATTEMPT.get()
    if running is not None:
        running.report_progress(done, total, message)
        return
    run = current_run("progress()")
    if run is not None:
        run.report_progress(done, total, message)
