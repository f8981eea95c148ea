"""The clock of a test: it stands still, and moves only when someone moves it."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["TestClock"]

#: The monotonic clock begins here, so that an age is never below 0.
_MONOTONIC: Final = 1_000.0
#: The shortest move, in seconds: recorded times are whole microseconds.
_LEAST: Final = 1e-6


class TestClock:
    """A server clock whose two readings move together. ``start`` is in seconds since the epoch; None means today."""

    __test__ = False  # pytest must not collect it.

    def __init__(self, start: float | None = None) -> None:
        self._start = float(int(time.time())) if start is None else start
        self._time = self._start

    def time(self) -> float:
        """Return the test's time, in seconds since the epoch."""
        return self._time

    def monotonic(self) -> float:
        """Return the seconds that have passed in the test, from a fixed beginning."""
        return _MONOTONIC + self._time - self._start

    def resume_from(self, moment: float) -> None:
        """Do nothing: the time continues over restarts of the test's engine."""

    def behind(self) -> float:
        """Return 0: the test's time is the only one."""
        return 0.0

    def follow(self, offset: float, *, at_start: bool) -> None:
        """Do nothing: a test has no other clock."""

    def wall_time_of(self, monotonic: float) -> float:
        """Return the time at which `monotonic` will return this value."""
        return self._start + monotonic - _MONOTONIC

    def move_to(self, moment: float) -> None:
        """Move to a time, and by at least a microsecond, because rounding may put a due time just before now."""
        self._time = max(moment, self._time + _LEAST)
