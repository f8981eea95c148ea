"""Timers over an injected clock.

The caller chooses the clock: the wall clock for durable times, the monotonic one
for limits. The event loop calls `Timers.run_due` when the next timer is due.
Others may call it at any time: the supervisor's tick, which so detects that the
wall clock jumped, and tests that control the clock.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


#: Cancelled timers are removed from the heap only if there are more than this.
FEW = 100


class Timer:
    """One timer. `cancel` it when it is no longer needed."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: Timers, when: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancel the timer. Its callback will not run."""
        if self.callback is not None:
            self.callback = None
            self._timers.forget_one()


class Timers:
    """A heap of timers, with one wake-up call scheduled on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Callable[[], float]) -> None:
        self._loop = loop
        self._read = read
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._cancelled = 0
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = float("inf")

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``when`` by this clock, or as soon as possible after."""
        timer = Timer(self, when, callback)
        heapq.heappush(self._heap, (when, next(self._count), timer))
        if when < self._wake_at:
            self._arm(when)
        return timer

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` after ``delay`` seconds by this clock."""
        return self.at(self._read() + delay, callback)

    @property
    def next_time(self) -> float | None:
        """When the next timer is due; None if there is none."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self._cancelled = max(0, self._cancelled - 1)
        return self._heap[0][0] if self._heap else None

    def forget_one(self) -> None:
        """Count a cancelled timer, and remove the cancelled ones once they are the majority."""
        self._cancelled += 1
        if self._cancelled > FEW and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def run_due(self) -> None:
        """Run the callbacks of all due timers."""
        now = self._read()
        due = []
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
            timer = heapq.heappop(self._heap)[2]
            if timer.callback is None:
                self._cancelled = max(0, self._cancelled - 1)
            else:
                due.append(timer)
        if self._wake is not None:
            self._wake.cancel()
        self._wake, self._wake_at = None, float("inf")
        for timer in due:
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        if self._heap and self._heap[0][0] < self._wake_at:
            self._arm(self._heap[0][0])

    def close(self) -> None:
        """Drop all timers."""
        self._heap.clear()
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _arm(self, when: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = when
        self._wake = self._loop.call_later(max(0.0, when - self._read()), self.run_due)
