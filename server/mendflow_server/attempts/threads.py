"""Threads for `def` steps."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from mendflow_server.runtime.threads import daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow_server.attempts.model import Mark


class DaemonThreads:
    """Threads that never keep the process from ending; each is created when it is first needed.

    ``marks`` has one for each thread.
    """

    def __init__(self, marks: Sequence[Mark]) -> None:
        self.loop_thread = threading.get_ident()
        self._marks = marks
        self._work: queue.SimpleQueue[Callable[[Mark], None] | None] = queue.SimpleQueue()
        self._count = 0
        self._idle = threading.Semaphore(0)

    def submit(self, work: Callable[[Mark], None]) -> None:
        """Run ``work`` on a thread, with the thread's mark.

        The thread slots, and the attempts that hold none, bound how much runs at once.
        """
        if not self._idle.acquire(blocking=False) and self._count < len(self._marks):
            mark = self._marks[self._count]
            self._count += 1
            name = f"mendflow-step-{self._count}"
            daemon_thread(self._serve, name=name, args=(mark,)).start()
        self._work.put(work)

    def close(self) -> None:
        """End each thread once it is idle."""
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self, mark: Mark) -> None:
        while (work := self._work.get()) is not None:
            work(mark)
            del work  # An idle thread would otherwise keep the last attempt in memory.
            self._idle.release()
