"""Running attempts: the only place where a step's own code executes.

An attempt's record is committed before the attempt comes here. ``async def``
steps run on the loop and ``def`` steps on daemon threads, so no step can keep
the process from ending. An attempt keeps its slot until its code has really
ended; the engine starts no further attempt of the step before that, unless the
step says that attempts may overlap.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

from mendflow_server.attempts.eager_tasks import EagerTasks
from mendflow_server.attempts.running_attempt import RunningAttempt
from mendflow_server.attempts.slots import Slots
from mendflow_server.attempts.threads import DaemonThreads

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from mendflow.authoring.step import Step
    from mendflow_server.attempts.model import AttemptRequest
    from mendflow_server.attempts.running_attempt import AttemptListener
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timers


class AttemptRunner:
    """All running attempts of this process.

    ``timers`` go by the monotonic clock. ``slots`` bounds attempts of
    ``async def`` steps and ``threads`` those of ``def`` steps. An output, and
    the details of a heartbeat, hold at most ``payload_limit`` bytes. A
    cancelled attempt has ``cancel_grace`` seconds to end.
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
    ) -> None:
        self.clock = clock
        self.timers = timers
        self.payload_limit = payload_limit
        self.cancel_grace = cancel_grace
        self.process = os.getpid()
        self.task_slots = Slots(slots)
        self.thread_slots = Slots(threads)
        self.threads = DaemonThreads(threads)
        self.running: set[RunningAttempt] = set()
        self._loop = asyncio.get_running_loop()
        self.eager_tasks = EagerTasks(self._loop)

    def slots_for(self, step: Step[..., Any]) -> Slots:
        """Return the slots from which a step's attempts take theirs."""
        return self.task_slots if step.is_async else self.thread_slots

    def launch(
        self, request: AttemptRequest, listener: AttemptListener, context: contextvars.Context
    ) -> RunningAttempt:
        """Run an attempt that holds a slot.

        It may have ended when this returns (`RunningAttempt.at_once`); its slot is kept for its workflow then.
        """
        attempt = RunningAttempt(self, request, listener)
        attempt.start(context)
        if attempt.at_once is None:
            self.running.add(attempt)
        else:
            self.task_slots.keep()
        return attempt

    def close(self) -> None:
        """Start nothing more."""
        self.eager_tasks.close()

    def ended(self, attempt: RunningAttempt) -> None:
        """Take an attempt's slot back."""
        self.running.discard(attempt)
        self.slots_for(attempt.request.step).give()

    def on_loop(self, attempt: RunningAttempt, call: Callable[[], None]) -> None:
        """Make a call on the loop, from wherever the attempt runs."""
        if attempt.request.step.is_async and threading.get_ident() == self.threads.loop_thread:
            call()
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            return  # The loop is closed because the process ends; recovery closes the attempt as lost.
