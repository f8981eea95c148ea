"""The supervisor: regular ticks and beats, so that nothing is forgotten.

Each loop has a public single step: `tick` about twice a second, `beat` every
few seconds. The tick never waits for the store. A task of its own loads what
the tick finds due, one such task at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from mendflow_server.history.timestamps import micros_of
from mendflow_server.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.engine.engine import Engine
    from mendflow_server.healing.crash_guard import CrashGuard
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.interface import Store
    from mendflow_server.store.retrying import RetryingStore
    from mendflow_server.supervisor.recovery import Recovery
    from mendflow_server.supervisor.replicas import Replicas

log = structlog.get_logger("mendflow.supervisor")

#: Workflows that are due within so many seconds are loaded.
HORIZON = 2.0
#: The most workflows that one look for due ones loads.
DUE_PAGE = 1000
#: The time between two ticks, in seconds.
TICK = 0.5
#: The time between a beat that failed and the next one, in seconds.
BEAT_RETRY = 0.25
#: The log mentions a wall clock that is behind by at least so many seconds.
NOTICEABLE = 1.0


class Supervisor:
    """Recovery at the start, and the ticks and beats after it. ``tick`` is the time between two ticks, in seconds."""

    def __init__(
        self,
        *,
        engine: Engine,
        recovery: Recovery,
        guard: CrashGuard,
        store: Store,
        retrying: RetryingStore,
        clock: Clock,
        replicas: Replicas | None = None,
        tick: float = TICK,
    ) -> None:
        self._engine = engine
        self._replicas = replicas
        self._recovery = recovery
        self._guard = guard
        self._store = store
        self._retrying = retrying
        self._clock = clock
        self._interval = tick
        self._recovered = False
        self._loading_due: asyncio.Task[None] | None = None
        self._clock_behind = False
        #: Why the last read of what is due failed, which is logged once; empty after a success.
        self._due_failure = ""
        #: Why the last beat failed, which is logged once; empty after a success.
        self.beat_failure = ""
        #: When the last tick was, in monotonic seconds.
        self.last_tick = clock.monotonic()

    @property
    def recovered(self) -> bool:
        """Whether everything that was in progress at the last process's end is in memory again."""
        return self._recovered

    @property
    def resting(self) -> bool:
        """Whether recovery is done and no search for due workflows is in progress."""
        return self.recovered and (self._loading_due is None or self._loading_due.done())

    @property
    def guard_due(self) -> float | None:
        """When the next tick may release a suspect, in monotonic seconds; None: no tick will."""
        return self._guard.due

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(self._interval)

    async def recover(self) -> None:
        """Continue what was in progress when the last process ended, and what fell due since."""
        if self._replicas is None:
            await self._recovery.run()
        else:
            await self._replicas.recover()
        self._recovered = True
        self.tick()  # What fell due continues now, and not half a second later.

    async def release_suspects(self) -> None:
        """Continue each suspect when its turn comes, until cancelled."""
        async for unit in self._guard.releases():
            self._engine.release(unit)

    def tick(self) -> None:
        """Run what is due, evict what rests, and refuse callers that wait too long."""
        self.last_tick = self._clock.monotonic()
        self._engine.tick(self.last_tick)
        self._check_clock()
        if not self.recovered or self._engine.draining:
            return
        self._engine.evict()
        self._guard.tick(self.last_tick)
        if self._replicas is not None:
            self._replicas.this.check_lease()
            if self._replicas.this.lost_lease:
                return
        if self._loading_due is None or self._loading_due.done():
            self._loading_due = asyncio.get_running_loop().create_task(self._load_due())

    def _check_clock(self) -> None:
        """Log once that the wall clock was set back."""
        behind = self._clock.behind()
        if behind < NOTICEABLE:
            self._clock_behind = False
        elif not self._clock_behind:
            self._clock_behind = True
            log.warning("wall_clock_behind", seconds=round(behind, 3))

    async def _load_due(self) -> None:
        engine = self._engine
        in_memory = engine.workflows_in_memory
        room = self._engine.settings.workflows_in_memory_limit - in_memory - engine.workflows_loading
        if room <= 0:
            return
        until = micros_of(self._clock.time() + HORIZON)
        unreadable = self._retrying.unreadable
        try:
            due = await self._store.due(until, limit=DUE_PAGE + in_memory + len(unreadable))
        except StoreError as error:
            if self._due_failure != str(error):
                self._due_failure = str(error)
                log.warning("due_not_read", error=self._due_failure)
            return
        self._due_failure = ""
        absent = [key for _, key in due if key not in unreadable and not engine.has(key)]
        if self._replicas is not None:
            absent = list(await self._replicas.orphans.keep(absent))
        engine.loader.load(absent[:room])

    async def beat(self) -> bool:
        """Renew this process's life, once it is recorded; return whether the store took it."""
        if not self._recovery.begun:
            return False
        began = self._clock.monotonic()
        engine = self._engine
        try:
            await self._store.beat(engine.replica_id, micros_of(self._clock.time()), load=engine.workflows_in_memory)
        except StoreError as error:
            if self.beat_failure != str(error):
                self.beat_failure = str(error)
                log.warning("beat_failed", error=self.beat_failure)
            if self._replicas is not None:
                self._replicas.look_soon()
            return False
        self.beat_failure = ""
        if self._replicas is not None:
            self._replicas.this.beat_began(began)
        return True

    async def beats(self, interval: float, on_beat: Callable[[], None]) -> None:
        """Prove the store by a small write every ``interval`` seconds, until cancelled; report each success.

        After a failure it is repeated sooner, so that a lease is renewed soon after an outage.
        """
        pause = interval
        while True:
            await asyncio.sleep(pause)
            pause = min(interval, BEAT_RETRY)
            if await self.beat():
                pause = interval
                on_beat()

    async def record_drain(self, patience: float) -> None:
        """Record a clean shutdown so that the next start does not treat it as a crash.

        A store that does not take it, or not within ``patience`` seconds, must not keep the process from its end; the
        log says so instead.
        """
        if not self._recovery.begun:
            return  # There is no life to record it in, and nothing ran.
        beat = self._store.beat(self._engine.replica_id, micros_of(self._clock.time()), drained=True)
        try:
            await asyncio.wait_for(beat, patience)
        except (StoreError, TimeoutError) as error:
            log.warning("drain_not_recorded", error=str(error) or f"the store took more than {patience:g} s")

    def close(self) -> None:
        """Stop what runs beside the ticks."""
        if self._loading_due is not None:
            self._loading_due.cancel()
