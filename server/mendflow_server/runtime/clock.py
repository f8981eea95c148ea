"""The server's clocks. They are injected, so that tests can control the time.

Setting the host's wall clock must not delay what waits: a backoff of a tenth of a second must not become an hour. So
the server's time never goes back. If the wall clock is ahead of the last reading, the server adopts it at once, because
a machine that was suspended has lost that time. If it is behind, the server's time continues from the last reading, a
little slower than the monotonic clock, until the wall clock has caught up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: The speed of the server's time while the wall clock is behind. The wall clock catches up, and waits end 11% later.
SPEED: Final = 0.9
#: How far ahead of the wall clock a new process may continue from the time of the last one, in seconds. If the wall
#: clock was set back by more, a restart adopts the new date.
CARRIED: Final = 86_400.0


class Clock(Protocol):
    """The clocks that the server reads."""

    def time(self) -> float:
        """Return seconds since the epoch, UTC, for recorded times. They never go back, but may jump forward."""

    def monotonic(self) -> float:
        """Return seconds that never go back and never jump, for limits and ages."""

    def resume_from(self, moment: float) -> None:
        """Return no earlier time than ``moment`` from now on, unless it is too far ahead of the wall clock."""

    def behind(self) -> float:
        """Return how many seconds the wall clock is behind `time`."""

    def follow(self, offset: float, *, at_start: bool) -> None:
        """Add ``offset`` seconds to the host's wall clock, so that it agrees with the clock that replicas share.

        Only ``at_start``, while nothing is recorded, may the time go back.
        """


class SystemClock:
    """The host's clocks, made steady. Threads may read them concurrently; a race costs no more than a moment."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._host = self._wall = wall
        self._monotonic = monotonic
        self._last = wall()
        #: The last reading that was not from the wall clock, and where such readings began, by both clocks.
        self._own = float("-inf")
        self._began = (self._last, 0.0)

    def time(self) -> float:
        """See `Clock.time`."""
        now = self._wall()
        if now < self._last:
            return self._continue()
        self._last = now
        return now

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._monotonic()

    def resume_from(self, moment: float) -> None:
        """See `Clock.resume_from`."""
        if self._last < moment <= self._wall() + CARRIED:
            self._last = moment

    def behind(self) -> float:
        """See `Clock.behind`."""
        return max(0.0, self._last - self._wall())

    def follow(self, offset: float, *, at_start: bool) -> None:
        """See `Clock.follow`."""
        host = self._host
        self._wall = (lambda: host() + offset) if offset else host
        if at_start:
            self._last = self._wall()

    def _continue(self) -> float:
        monotonic = self._monotonic()
        if self._own != self._last:
            # The last reading was from the wall clock, which went back at an unknown time since then.
            self._began = (self._last, monotonic)
        last, began = self._began
        # Compute from the beginning each time: a sum of short times would accumulate rounding errors.
        self._own = self._last = max(self._last, last + SPEED * (monotonic - began))
        return self._last
