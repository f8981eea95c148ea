"""The supervisor: takes over what a dead process left, and sees that nothing is forgotten.

Each loop has a public single step: `recover` once at the start, `tick` about
every second, `beat` every few seconds. The tick never waits on the store: what
it finds due is loaded by a task of its own, one at a time.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from mendflow.v1 import event_pb2
from mendflow_server.engine.memory import LOAD_PAGE, CrashBudgetPort
from mendflow_server.healing.crash_budget import Unit, after_death
from mendflow_server.history.state import History
from mendflow_server.store.errors import StoreError
from mendflow_server.store.records import Life, Loaded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow_server.engine.engine import Engine
    from mendflow_server.healing.crash_budget import Schedule
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Suspect

log = structlog.get_logger("mendflow.supervisor")

#: How far ahead due workflows are brought into memory, in seconds.
HORIZON = 2.0
#: The most that one look for due workflows brings in.
DUE_PAGE = 1000
TICK = 0.5
#: How far behind the wall clock must be to be spoken of, in seconds.
NOTICEABLE = 1.0


class Supervisor(CrashBudgetPort):
    """Recovery at the start, and the ticks after it."""

    def __init__(self, *, engine: Engine, store: Store, clock: Clock, settings: Settings) -> None:
        self._engine = engine
        self._store = store
        self._retrying_store = engine.retrying_store
        self._clock = clock
        self._settings = settings
        self._schedule: Schedule | None = None
        self._released: list[Unit] = []
        self._quarantined: dict[Unit, int] = {}
        self._due: asyncio.Task[None] | None = None
        self._ledger: asyncio.Task[None] | None = None
        self._clock_behind = False
        self._begun = False
        #: Whether all that was under way has been taken over.
        self.recovered = False
        #: When the last tick was, by the monotonic clock.
        self.last_tick = clock.monotonic()
        engine.crash_budget = self

    # At the start.

    async def recover(self) -> None:
        """Take over everything that was under way when the last process ended, however often it must be tried."""
        began = self._clock.monotonic()
        now = round(self._clock.time() * 1e6)
        life = Life(self._engine.replica_id, now, now, drained=False)
        previous = await self._retrying_store.until_done(lambda: self._store.begin_life(life))
        self._begun = True
        ledger = await self._retrying_store.until_done(self._store.suspects)
        loaded = await self._under_way([suspect.key for suspect in ledger])
        await self._judge(previous, ledger, loaded)
        self._engine.loads_open = True
        for index, each in enumerate(loaded):
            self._engine.bring_in(each, retry=each.row.reason == event_pb2.STATE_REASON_NON_DETERMINISM)
            if index % LOAD_PAGE == LOAD_PAGE - 1:
                await asyncio.sleep(0)  # Let the first ones go on while the rest is taken over.
        self._engine.load([])
        self.recovered = True
        self.tick()  # What fell due while no server was there goes on now, and not half a second later.
        if previous is not None:
            log.info(
                "recovered",
                workflows=len(loaded),
                quarantined=len(self._quarantined),
                previous_replica_id=previous.replica_id,
                drained=previous.drained,
                seconds=round(self._clock.monotonic() - began, 3),
            )

    async def _under_way(self, more: Iterable[int]) -> list[Loaded]:
        keys: set[int] = set(more)
        keys.update(await self._all_keys(None))
        for reason in (
            event_pb2.STATE_REASON_SLOT,
            event_pb2.STATE_REASON_SUSPECTED,
            event_pb2.STATE_REASON_NOT_SERVED,
            event_pb2.STATE_REASON_NON_DETERMINISM,
        ):
            keys.update(await self._all_keys(reason))
        ordered = sorted(keys)
        loaded: list[Loaded] = []
        for start in range(0, len(ordered), LOAD_PAGE):
            loaded += await self._retrying_store.load(ordered[start : start + LOAD_PAGE])
        return loaded

    async def _all_keys(self, reason: int | None) -> list[int]:
        keys: list[int] = []
        while True:
            page = await self._retrying_store.until_done(partial(self._page, reason, keys[-1] if keys else 0))
            keys += page
            if len(page) < DUE_PAGE:
                return keys

    async def _page(self, reason: int | None, after: int) -> list[int]:
        if reason is None:
            return await self._store.in_progress(after_key=after, limit=DUE_PAGE)
        return await self._store.stopped_for(reason, after_key=after, limit=DUE_PAGE)

    async def _judge(self, previous: Life | None, ledger: list[Suspect], loaded: list[Loaded]) -> None:
        """Ask the crash budget who goes on at once, who waits for a turn, and who is kept from running."""
        if previous is None:
            return
        in_flight = {unit for each in loaded for unit in _units(each)}
        note = self._engine.note.left
        if note:
            in_flight.add(Unit(note, ""))
        lived = max(0, previous.beat_time - previous.start_time) / 1e6
        plan = after_death(
            ledger, in_flight, innocent=previous.drained, lived=lived, budget=self._settings.crash_budget
        )
        self._schedule = plan.schedule
        self._schedule.start(self._clock.monotonic())
        # On disk before any of them runs again: the next death may come at once.
        suspects = self._schedule.ledger()
        await self._retrying_store.until_done(lambda: self._store.write_suspects(suspects))
        self._quarantined = dict(plan.quarantined)
        self._engine.suspects = bool(plan.ledger)
        held = sum(suspect.held for suspect in plan.ledger)
        if held:
            log.warning("suspects", count=held, previous_lived=lived)

    # The crash budget, as the engine asks it.

    def holds(self, key: int, step_key: str) -> bool:
        """Whether a suspect must wait for its turn."""
        return self._schedule is not None and self._schedule.is_held(Unit(key, step_key))

    def quarantined(self, key: int, step_key: str) -> int:
        """How many crashes quarantine it now; 0: none do."""
        return self._quarantined.pop(Unit(key, step_key), 0)

    def ended(self, key: int, step_key: str) -> None:
        """A suspect's attempt is closed, or its workflow (no step key) has ended."""
        if self._schedule is not None:
            self._release(self._schedule.ended(Unit(key, step_key), self._clock.monotonic()))

    def forgive(self, key: int) -> None:
        """Forget what is held against a workflow."""
        if self._schedule is not None:
            for suspect in self._schedule.ledger():
                if suspect.key == key:
                    self.ended(suspect.key, suspect.step_key)

    def _release(self, units: list[Unit]) -> None:
        """Let suspects go on, once the ledger that says so is on disk."""
        self._released += units
        if self._ledger is None or self._ledger.done():
            self._ledger = asyncio.get_running_loop().create_task(self._write_ledger())

    # Every second.

    def tick(self) -> None:
        """Look after time: what is due, what rests, who waits too long. Never waits on the store."""
        self.last_tick = self._clock.monotonic()
        engine = self._engine
        engine.timers.run_due()
        engine.limits.run_due()
        engine.lose_patience()
        self._look_at_clock()
        if not self.recovered or engine.draining:
            return
        engine.evict()
        if self._schedule is not None:
            released = self._schedule.tick(self.last_tick)
            if released or self._released:
                self._release(released)
        if self._due is None or self._due.done():
            self._due = asyncio.get_running_loop().create_task(self._load_due())

    def _look_at_clock(self) -> None:
        """Say once that the wall clock was set back."""
        behind = self._clock.behind()
        if behind < NOTICEABLE:
            self._clock_behind = False
        elif not self._clock_behind:
            self._clock_behind = True
            log.warning("wall_clock_behind", seconds=round(behind, 3))

    async def _load_due(self) -> None:
        try:
            room = max(
                0, self._settings.workflows_in_memory_limit - self._engine.workflows_in_memory - self._engine.loading
            )
            until = round((self._clock.time() + HORIZON) * 1e6)
            if room:
                unreadable = self._retrying_store.unreadable
                due = await self._store.due(until, limit=DUE_PAGE + self._engine.workflows_in_memory + len(unreadable))
                absent = [key for _, key in due if key not in unreadable and not self._engine.has(key)]
                self._engine.load(absent[:room])
        except StoreError as error:
            log.warning("due_not_read", error=str(error))

    async def _write_ledger(self) -> None:
        if self._schedule is None:
            return
        released, self._released = self._released, []
        ledger = self._schedule.ledger()
        self._engine.suspects = bool(ledger)
        try:
            await self._store.write_suspects(ledger)
        except StoreError as error:
            self._released += released  # The next tick tries again.
            log.warning("ledger_not_written", error=str(error))
            return
        for unit in released:
            self._engine.release(*unit)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(TICK)

    async def beat(self) -> bool:
        """Renew this process's life, once it has begun; answer whether the store took it."""
        if not self._begun:
            return False
        try:
            await self._store.beat(self._engine.replica_id, round(self._clock.time() * 1e6))
        except StoreError as error:
            log.warning("beat_failed", error=str(error))
            return False
        return True

    async def record_drain(self, patience: float) -> None:
        """Record that this process ends of its own will, and dies of nobody.

        A store that does not take it, or not within ``patience`` seconds, must not keep the process from its end: the
        log is told instead.
        """
        if not self._begun:
            return  # There is no life to record it in, and nothing was driven.
        beat = self._store.beat(self._engine.replica_id, round(self._clock.time() * 1e6), drained=True)
        try:
            await asyncio.wait_for(beat, patience)
        except (StoreError, TimeoutError) as error:
            log.warning("drain_not_recorded", error=str(error) or f"the store took more than {patience:g} s")

    def close(self) -> None:
        """Stop what runs beside the ticks."""
        for task in (self._due, self._ledger):
            if task is not None:
                task.cancel()


def _units(loaded: Loaded) -> list[Unit]:
    """Answer what of a workflow was in flight."""
    try:
        history = History.of(loaded.events)
    except Exception:  # noqa: BLE001 - told of when it is taken over
        return []
    return [Unit(loaded.row.key, record.key) for record in history.open_attempts()]
