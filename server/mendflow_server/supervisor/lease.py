"""The lease of this replica, by its own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mendflow_server.runtime.clock import Clock

__all__ = ["Lease"]


class Lease:
    """The time for which the last beat proves that this replica lives. ``seconds`` is how long that is."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self.seconds = seconds
        #: When the last beat that succeeded began, in monotonic seconds.
        self._renewed = clock.monotonic()
        #: Since when this replica has had its lease without a break, in monotonic seconds.
        self.held_since = float("-inf")

    @property
    def is_valid(self) -> bool:
        """Whether no other replica may have taken over the workflows of this one."""
        return self._clock.monotonic() - self._renewed <= self.seconds

    def renew(self, began: float) -> None:
        """Note that a beat has succeeded that began then, in monotonic seconds."""
        if began - self._renewed > self.seconds:
            self.held_since = self._clock.monotonic()
        self._renewed = began
