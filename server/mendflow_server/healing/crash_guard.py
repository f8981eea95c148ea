"""The crash guard: holds suspects back until their turn, and quarantines units that keep crashing the server.

`judge` applies the crash budget to the end of a process: at the start to that
of the last one, and where several replicas share a store to that of each one
whose work this replica takes over. Afterwards units end, time passes, and the
guard releases suspects. It commits the ledger first: the next crash may come at
once, and the ledger must say which suspects ran then.
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
        #: One for each process whose end was judged, until it has nothing left to watch.
        self._plans: list[ReleasePlan] = []
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
        now = self._clock.monotonic()
        judged = {*in_flight, *(Unit(each.key, each.step_key) for each in ledger)}
        # A unit is watched once: by the plan of its last crash.
        released = [each for earlier in self._plans for unit in judged for each in earlier.ended(unit, now)]
        self._plans.append(plan.release_plan)
        plan.release_plan.start(now)
        await self._retrying.until_done(lambda: self._store.write_suspects(self._ledger()))
        self._quarantined.update(plan.quarantined)
        self.has_suspects = bool(self._ledger())
        if released:
            self._release(released)
        held = sum(suspect.held for suspect in plan.ledger)
        if held:
            log.warning("suspects", count=held, previous_lived=lived)
        return len(plan.quarantined)

    def _ledger(self) -> list[Suspect]:
        self._plans = [plan for plan in self._plans if plan.ledger()]
        return [suspect for plan in self._plans for suspect in plan.ledger()]

    def forget(self) -> None:
        """Forget all suspects, because another process watches them from now on."""
        self._plans = []
        self._quarantined.clear()
        self._releasing = []
        self.has_suspects = False

    def holds(self, key: int, step_key: str) -> bool:
        """Return whether a unit must wait for its turn."""
        unit = Unit(key, step_key)
        return any(plan.is_held(unit) for plan in self._plans)

    def quarantined(self, key: int, step_key: str) -> int:
        """Return the number of crashes that quarantine a unit, once; 0: none do."""
        return self._quarantined.pop(Unit(key, step_key), 0)

    def ended(self, key: int, step_key: str) -> None:
        """Note that a unit's attempt is closed or, with an empty step key, that its workflow has ended."""
        unit, now = Unit(key, step_key), self._clock.monotonic()
        for plan in self._plans:
            self._release(plan.ended(unit, now))

    def forgive(self, key: int) -> None:
        """Forget what is held against a workflow, because an operator resumed it."""
        for suspect in [each for plan in self._plans for each in plan.ledger() if each.key == key]:
            self.ended(suspect.key, suspect.step_key)

    @property
    def due(self) -> float | None:
        """When `tick` has something to do, in monotonic seconds; None if it has nothing to wait for."""
        return min((plan.due for plan in self._plans if plan.due is not None), default=None)

    def tick(self, now: float) -> None:
        """Release the units whose time has come; ``now`` is in monotonic seconds."""
        released = [unit for plan in self._plans for unit in plan.tick(now)]
        if released or self._releasing:
            self._release(released)

    async def releases(self) -> AsyncIterator[Unit]:
        """Yield each unit whose turn has come, as soon as the committed ledger says so."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            released, self._releasing = self._releasing, []
            ledger = self._ledger()
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
