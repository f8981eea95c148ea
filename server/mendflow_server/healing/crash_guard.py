"""The crash guard: holds suspects back until their turn, and quarantines units that keep crashing the server.

`judge` applies the crash budget once, at the start. Afterwards units end, time
passes, and the guard releases suspects. It commits the ledger first: the next
crash may come at once, and the ledger must say which suspects ran then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from mendflow_server.healing.crash_budget import Unit, after_crash
from mendflow_server.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from mendflow_server.healing.crash_budget import ReleasePlan
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Life, Suspect
    from mendflow_server.store.retrying import RetryingStore

log = structlog.get_logger("mendflow.supervisor")


class CrashGuard:
    """The suspects of this run of the server. ``budget`` is the number of crashes that quarantine a unit."""

    def __init__(self, *, store: Store, retrying: RetryingStore, clock: Clock, budget: int) -> None:
        self._store = store
        self._retrying = retrying
        self._clock = clock
        self._budget = budget
        self._plan: ReleasePlan | None = None
        self._quarantined: dict[Unit, int] = {}
        #: Released, but the ledger does not say so yet.
        self._releasing: list[Unit] = []
        self._wake = asyncio.Event()
        #: Whether the ledger holds any unit.
        self.has_suspects = False

    async def judge(
        self,
        previous: Life | None,
        ledger: Sequence[Suspect],
        in_flight: Collection[Unit],
        executing: Collection[Unit],
        *,
        left_behind: bool = False,
    ) -> int:
        """Apply the crash budget to what a previous process left; return how many units are quarantined.

        ``previous`` is that process's life (None on a new store), ``ledger``
        what it had written, ``in_flight`` what it left open, ``executing`` what
        of that executed when the process ended, ``left_behind`` whether code
        executed that is none of these.
        """
        if previous is None:
            return 0
        lived = max(0, previous.beat_time - previous.start_time) / 1e6
        plan = after_crash(
            ledger,
            in_flight,
            executing=executing,
            left_behind=left_behind,
            innocent=previous.drained,
            lived=lived,
            budget=self._budget,
        )
        self._plan = plan.release_plan
        self._plan.start(self._clock.monotonic())
        suspects = self._plan.ledger()
        await self._retrying.until_done(lambda: self._store.write_suspects(suspects))
        self._quarantined = dict(plan.quarantined)
        self.has_suspects = bool(plan.ledger)
        held = sum(suspect.held for suspect in plan.ledger)
        if held:
            log.warning("suspects", count=held, previous_lived=lived)
        return len(self._quarantined)

    def holds(self, key: int, step_key: str) -> bool:
        """Return whether a unit must wait for its turn."""
        return self._plan is not None and self._plan.is_held(Unit(key, step_key))

    def quarantined(self, key: int, step_key: str) -> int:
        """Return the number of crashes that quarantine a unit, once; 0: none do."""
        return self._quarantined.pop(Unit(key, step_key), 0)

    def ended(self, key: int, step_key: str) -> None:
        """Note that a unit's attempt is closed or, with an empty step key, that its workflow has ended."""
        if self._plan is not None:
            self._release(self._plan.ended(Unit(key, step_key), self._clock.monotonic()))

    def forgive(self, key: int) -> None:
        """Forget what is held against a workflow, because an operator resumed it."""
        if self._plan is not None:
            for suspect in self._plan.ledger():
                if suspect.key == key:
                    self.ended(suspect.key, suspect.step_key)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, in monotonic seconds; None if it has nothing to wait for."""
        return None if self._plan is None else self._plan.due

    def tick(self, now: float) -> None:
        """Release the units whose time has come; ``now`` is in monotonic seconds."""
        if self._plan is not None:
            released = self._plan.tick(now)
            if released or self._releasing:
                self._release(released)

    async def releases(self) -> AsyncIterator[Unit]:
        """Yield each unit whose turn has come, as soon as the committed ledger says so."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._plan is None:
                continue
            released, self._releasing = self._releasing, []
            ledger = self._plan.ledger()
            self.has_suspects = bool(ledger)
            try:
                await self._store.write_suspects(ledger)
            except StoreError as error:
                self._releasing += released  # The next tick tries again.
                log.warning("ledger_not_written", error=str(error))
                continue
            for unit in released:
                yield unit

    def _release(self, units: list[Unit]) -> None:
        self._releasing += units
        self._wake.set()
