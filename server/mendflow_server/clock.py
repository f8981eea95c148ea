"""Time, injected so that tests can move it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the server reads the time."""

    def time(self) -> float:
        """Seconds since the epoch, UTC: for what is recorded. It may jump."""

    def monotonic(self) -> float:
        """Seconds that only ever go forward: for waits and ages."""


class SystemClock:
    """The host's clocks."""

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only ever go forward."""
        return time.monotonic()
