"""Threads for `def` steps."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class DaemonThreads:
    """Threads that never keep the process from ending; each is created when it is first needed."""

    def __init__(self, limit: int) -> None:
        self.loop_thread = threading.get_ident()
        self._limit = limit
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._count = 0
        self._idle = threading.Semaphore(0)

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` on a thread. The thread slots, and the attempts that hold none, bound how much runs at once."""
        if not self._idle.acquire(blocking=False) and self._count < self._limit:
            self._count += 1
            threading.Thread(target=self._serve, name=f"mendflow-step-{self._count}", daemon=True).start()
        self._work.put(work)

    def close(self) -> None:
        """End each thread once it is idle."""
        for _ in range(self._count):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # An idle thread would otherwise keep the last attempt in memory.
            self._idle.release()
