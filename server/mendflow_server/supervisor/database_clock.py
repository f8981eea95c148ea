"""The wall clock of a replica follows that of the database, so that the times of all replicas agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.replicas import ReplicaStore

__all__ = ["DatabaseClock"]

log = structlog.get_logger("mendflow.supervisor")

#: How often the clocks are compared, and how much they may differ beside the error of the comparison, in seconds.
_LOOK: Final = 10.0
_TOLERANCE: Final = 0.05


class DatabaseClock:
    """Compares ``clock`` with the clock of the database."""

    def __init__(self, store: ReplicaStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        #: What is added to the wall clock, in seconds.
        self._offset = 0.0
        self._due = float("-inf")

    async def follow(self, *, at_start: bool) -> None:
        """Compare the clocks if that is due, and correct the wall clock. Only ``at_start`` may the time go back."""
        began = self._clock.monotonic()
        if began < self._due:
            return
        here = self._clock.time() - self._clock.behind()
        there = await self._store.database_time() / 1e6
        ended = self._clock.monotonic()
        # The database read its clock at some time between.
        error = (ended - began) / 2
        difference = there - here - error
        self._due = ended + _LOOK
        if abs(difference) > error + _TOLERANCE:
            self._offset += difference
            self._clock.follow(self._offset, at_start=at_start)
            log.warning("clock_follows_database", offset=round(self._offset, 3))
