"""Timers over an injected clock.

Due times are read off a clock given by the caller: the wall clock for durable
times, the monotonic one for limits. The loop is asked to wake us, and
`run_due` may be called at any time besides: by the supervisor's tick, which so
notices a wall clock that jumped, and by tests that move the clock by hand.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


#: So many cancelled timers are not worth a clean-up.
FEW = 100


class Timer:
    """One timer; `cancel` it when it is no longer wanted."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: Timers, when: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Make it do nothing."""
        if self.callback is not None:
            self.callback = None
            self._timers.forget_one()


class Timers:
    """A heap of timers and one wake-up at the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Callable[[], float]) -> None:
        self._loop = loop
        self._read = read
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._cancelled = 0
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = float("inf")

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back at ``when`` by this clock, or as soon as possible after."""
        timer = Timer(self, when, callback)
        heapq.heappush(self._heap, (when, next(self._count), timer))
        if when < self._wake_at:
            self._arm(when)
        return timer

    def after(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back after ``delay`` seconds by this clock."""
        return self.at(self._read() + delay, callback)

    def forget_one(self) -> None:
        """A timer was cancelled; once most are, they are thrown out."""
        self._cancelled += 1
        if self._cancelled > FEW and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def run_due(self) -> None:
        """Call back all that are due."""
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
        """Forget all of them."""
        self._heap.clear()
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _arm(self, when: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = when
        self._wake = self._loop.call_later(max(0.0, when - self._read()), self.run_due)
