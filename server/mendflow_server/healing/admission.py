"""The admission gate: the one place that decides whether an attempt may start now."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mendflow.authoring.step import Step
    from mendflow_server.attempts.attempt_runner import AttemptRunner
    from mendflow_server.healing.crash_guard import CrashGuard

__all__ = ["AdmissionGate", "Decision"]


class Decision(enum.Enum):
    """Whether an attempt may start. All but `PERMIT` hold it back, and say what it waits for."""

    #: The attempt may start. It holds a slot.
    PERMIT = enum.auto()
    #: A suspect waits for its turn. The supervisor wants the step again when it comes.
    HOLD_SUSPECT = enum.auto()
    #: The code of an earlier attempt still runs. Its end wants the step again.
    HOLD_RUNNING = enum.auto()
    #: The server is shutting down. The next process starts the attempt.
    HOLD_DRAINING = enum.auto()
    #: Every slot is taken. The caller waits in the line of the step's slots.
    HOLD_SLOT = enum.auto()


# Attribute access on an enum class costs a lookup in its metaclass for each attempt.
_PERMIT, _SUSPECT, _RUNNING, _DRAINING, _SLOT = Decision


class AdmissionGate:
    """What stands in the way of an attempt: the crash guard, an earlier attempt, a drain, the slots."""

    def __init__(self, attempts: AttemptRunner, guard: CrashGuard) -> None:
        self._attempts = attempts
        self.guard = guard
        #: Whether the server is shutting down and starts nothing more.
        self.draining = False

    def admit(self, key: int, step_key: str, step: Step[..., Any], *, held: bool, running: bool) -> Decision:
        """Decide whether an attempt may start, and take its slot if so.

        ``key`` is the workflow's. ``held`` says that the history holds the
        step back as a suspect, ``running`` that an earlier attempt's code runs.
        """
        if held and self.guard.holds(key, step_key):
            return _SUSPECT
        if running and not step.overlap:
            return _RUNNING
        if self.draining:
            return _DRAINING
        if not self._attempts.slots_for(step).take():
            return _SLOT
        return _PERMIT

    def close(self) -> None:
        """Admit no further attempt, because the server is shutting down."""
        self.draining = True
