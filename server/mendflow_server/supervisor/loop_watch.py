"""Report what blocks the event loop, while it blocks it.

Code that does not yield stops every workflow of the process, and the loop can
report nothing then. So a thread looks whether the loop still turns. When it
does not, the thread reads the stack of the loop's thread. The stack also names
the step or the workflow, since their code runs inside `RunningAttempt` and
`WorkflowRunner`.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from mendflow.tracebacks import Frame
from mendflow_server.attempts.running_attempt import RunningAttempt
from mendflow_server.replay.workflow_runner import WorkflowRunner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = ["LoopWatch"]

log = structlog.get_logger("mendflow.loop")

#: How often the loop shows that it turns, and how often the thread looks, in seconds.
INTERVAL: Final = 0.25
#: How many frames of the stack the log has.
FRAMES: Final = 12


class LoopWatch:
    """Watches the running loop, as a context manager. ``limit`` is how long it may not turn, in seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._loop_thread = threading.get_ident()
        self._turned = time.monotonic()
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        """Watch from now on."""
        threading.Thread(target=self._watch, name="mendflow-loop-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._stopped.set()

    async def run(self) -> None:
        """Record at every interval that the loop turns, until cancelled."""
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(INTERVAL)

    def _watch(self) -> None:
        reported, due, looked = 0.0, self._limit, time.monotonic()
        while not self._stopped.wait(INTERVAL):
            turned, now = self._turned, time.monotonic()
            blocked = now - turned - INTERVAL
            paused, looked = now - looked > 2 * INTERVAL, now
            if paused:
                continue  # The whole process stood still, or had no processor; the loop shows itself next.
            if turned != reported:
                due = self._limit
            if blocked >= due:
                # Again when it has lasted twice as long.
                reported, due = turned, 2 * blocked
                self._report(blocked)

    def _report(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented
        if frame is None:
            return
        frames = [str(Frame(each.filename, each.lineno or 0, each.name)) for each in traceback.extract_stack(frame)]
        try:
            code = _code_in(frame)
        except Exception as error:  # noqa: BLE001 - it examines objects of the code that runs
            code = {"code": f"unknown: {type(error).__name__}"}
        log.warning("event_loop_blocked", seconds=round(blocked, 1), **code, frames=frames[-FRAMES:])


def _code_in(frame: FrameType) -> dict[str, Any]:
    """Return whose code a stack runs: the attempt or the workflow; nothing for other code."""
    for outer in _outwards(frame):
        owner = outer.f_locals.get("self")
        if isinstance(owner, RunningAttempt):
            request = owner.request
            return {
                "workflow_id": request.workflow_id,
                "workflow_type": request.workflow_type,
                "step_key": request.step_key,
                "attempt": request.number,
            }
        if isinstance(owner, WorkflowRunner):
            started = owner.history.started
            workflow_id = "" if started is None else started.workflow_started.workflow_id
            return {"workflow_id": workflow_id, "workflow_type": owner.workflow.name}
    return {}


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
