"""Time, injected so that tests can move it.

The host's wall clock may be set, and what waits must not pay for it: a back-off of a tenth of a second must not
become an hour. So the server's own time never goes back. Where the wall clock is ahead of what was read last, it is
right, and is adopted at once: a machine that was suspended has lost that time. Where it is behind, time goes on from
what was read last, a little slower than the monotonic clock, until the wall clock has caught up.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

#: How fast time goes while the wall clock is behind: slow enough to be caught up with, fast enough for what waits.
SPEED: Final = 0.9
#: How far ahead of the wall clock a new process goes on from where the last one was, in seconds. Whoever set the
#: clock back by more than that wants another date, and gets it by a restart.
CARRIED: Final = 86_400.0


class Clock(Protocol):
    """Where the server reads the time."""

    def time(self) -> float:
        """Seconds since the epoch, UTC: for what is recorded. It never goes back; it may jump forward."""

    def monotonic(self) -> float:
        """Seconds that only ever go forward, and never jump: for limits and ages."""

    def resume_from(self, moment: float) -> None:
        """Read no earlier time than this from now on, unless that is too far ahead of the wall clock."""

    def behind(self) -> float:
        """Answer how many seconds the wall clock is behind `time`."""


class SystemClock:
    """The host's clocks, made steady. Steps' threads may read it beside the loop: no more than a moment is lost."""

    def __init__(
        self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._last = wall()
        #: The last reading that was not the wall clock's; where, by both clocks, such readings began.
        self._own = float("-inf")
        self._began = (self._last, 0.0)

    def time(self) -> float:
        """See `Clock.time`."""
        now = self._wall()
        if now < self._last:
            return self._go_on()
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

    def _go_on(self) -> float:
        monotonic = self._monotonic()
        if self._own != self._last:
            # The last reading was the wall clock's, which has gone back since. How long ago that was nobody knows.
            self._began = (self._last, monotonic)
        last, began = self._began
        # From the beginning each time: a sum of short times would lose them to rounding.
        self._own = self._last = max(self._last, last + SPEED * (monotonic - began))
        return self._last
