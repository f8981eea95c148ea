"""Running attempts: the only place where a step's own code executes.

An attempt's record is committed before the attempt comes here. ``async def``
steps run on the loop and ``def`` steps on daemon threads, so no step can keep
the process from ending. Code cannot always be stopped: a thread may hang, and
a task may ignore its cancel. Such an attempt is closed while its code still
runs. Then the engine starts no further attempt of the step, unless the step says
that attempts may overlap, but other steps get its slot (`Slots`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import structlog

from mendflow_server.attempts.eager_tasks import EagerTasks
from mendflow_server.attempts.running_attempt import RunningAttempt
from mendflow_server.attempts.slots import Slots
from mendflow_server.attempts.threads import DaemonThreads

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Sequence

    from mendflow.authoring.step import Step
    from mendflow_server.attempts.model import AttemptRequest, Mark
    from mendflow_server.attempts.running_attempt import AttemptListener
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timers

log = structlog.get_logger("mendflow.attempts")


class AttemptRunner:
    """All running attempts of this process.

    ``timers`` go by the monotonic clock. ``slots`` bounds attempts of
    ``async def`` steps and ``threads`` those of ``def`` steps. An output, and
    the details of a heartbeat, hold at most ``payload_limit`` bytes. A
    cancelled attempt has ``cancel_grace`` seconds to end. The attempt that has the
    loop is in ``loop_mark``; ``thread_marks`` has one for each thread.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        timers: Timers,
        slots: int,
        threads: int,
        payload_limit: int,
        cancel_grace: float,
        loop_mark: Mark,
        thread_marks: Sequence[Mark],
    ) -> None:
        self.clock = clock
        self.timers = timers
        self.payload_limit = payload_limit
        self.cancel_grace = cancel_grace
        self.process = os.getpid()
        self.task_slots = Slots(slots)
        self.thread_slots = Slots(threads)
        self.threads = DaemonThreads(thread_marks)
        self.running: set[RunningAttempt] = set()
        #: The attempts with hung code, by the workflow's uid. They outlive the workflow's execution.
        self._hung: dict[str, list[RunningAttempt]] = {}
        self._loop = asyncio.get_running_loop()
        self.eager_tasks = EagerTasks(self._loop, loop_mark)

    def slots_for(self, step: Step[..., Any]) -> Slots:
        """Return the slots from which a step's attempts take theirs."""
        return self.task_slots if step.is_async else self.thread_slots

    def launch(
        self,
        request: AttemptRequest,
        listener: AttemptListener,
        context: contextvars.Context,
        on_record: tuple[int, int],
    ) -> RunningAttempt:
        """Run an attempt that holds a slot. ``on_record`` is its workflow's key and its AttemptStarted's sequence.

        It may have ended when this returns (`RunningAttempt.at_once`); its slot is kept for its workflow then.
        """
        attempt = RunningAttempt(self, request, listener)
        attempt.start(context, on_record)
        if attempt.at_once is None:
            self.running.add(attempt)
        else:
            self.task_slots.keep()
        return attempt

    def close(self) -> None:
        """Start nothing more, and end the threads: an idle one now, the others when their steps end."""
        self.eager_tasks.close()
        self.threads.close()

    def note_hung(self, attempt: RunningAttempt) -> None:
        """Note that an attempt is closed while its code still runs. Others may get its slot."""
        request = attempt.request
        self._hung.setdefault(request.workflow_uid, []).append(attempt)
        self.slots_for(request.step).note_hung()

    def hung_of(self, workflow_uid: str) -> Sequence[RunningAttempt]:
        """Return the attempts of a workflow with hung code."""
        return self._hung.get(workflow_uid, ())

    @property
    def hung(self) -> int:
        """How many attempts have hung code."""
        return self.task_slots.hung + self.thread_slots.hung

    def ended(self, attempt: RunningAttempt) -> None:
        """Take an attempt's slot back: its code has ended."""
        self.running.discard(attempt)
        request = attempt.request
        hung = self._hung.get(request.workflow_uid, [])
        if attempt not in hung:
            self.slots_for(request.step).give()
            return
        hung.remove(attempt)
        if not hung:
            del self._hung[request.workflow_uid]
        if attempt.outlasted:
            log.info("code_of_closed_attempt_ended", **_named(request))
        self.slots_for(request.step).hung_ended()

    def outlasted(self, attempt: RunningAttempt) -> None:
        """Log that an interrupt did not stop an attempt's code."""
        kind = "the task ignored its cancel" if attempt.request.step.is_async else "a thread cannot be stopped"
        log.warning("code_of_closed_attempt_runs", **_named(attempt.request), why=kind, closed_attempts=self.hung)

    def on_loop(self, attempt: RunningAttempt, call: Callable[[], None]) -> None:
        """Make a call on the loop, from wherever the attempt runs."""
        if attempt.request.step.is_async and threading.get_ident() == self.threads.loop_thread:
            call()
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # The loop is closed because the process ends; recovery closes the attempt as lost.


def _named(request: AttemptRequest) -> dict[str, Any]:
    return {
        "workflow_id": request.workflow_id,
        "workflow_type": request.workflow_type,
        "step_key": request.step_key,
        "attempt": request.number,
    }
