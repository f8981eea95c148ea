"""Recovery: continues what was in progress when the last process ended, once, at the start."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from mendflow.v1 import event_pb2
from mendflow_server.engine.loader import LOAD_PAGE
from mendflow_server.healing.crash_budget import Unit
from mendflow_server.history.state import FINAL_STATES, History
from mendflow_server.history.timestamps import micros_of
from mendflow_server.store.records import Life

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow_server.engine.engine import Engine
    from mendflow_server.execution.crash_marker import CrashMarker
    from mendflow_server.healing.crash_guard import CrashGuard
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Loaded
    from mendflow_server.store.retrying import RetryingStore

log = structlog.get_logger("mendflow.supervisor")

#: How many keys one trip to the store reads.
KEY_PAGE = 1_000
#: Workflows that are paused for one of these reasons resume when the code that is served now can continue them.
_RETRIED_BY_CODE = (event_pb2.STATE_REASON_NON_DETERMINISM, event_pb2.STATE_REASON_WORKFLOW_ERROR)
#: Workflows that wait for one of these reasons are loaded although nothing of them is in progress.
_REASONS = (
    event_pb2.STATE_REASON_SLOT,
    event_pb2.STATE_REASON_SUSPECTED,
    event_pb2.STATE_REASON_THREAD,
    event_pb2.STATE_REASON_NOT_SERVED,
    *_RETRIED_BY_CODE,
)


class _Recovered(NamedTuple):
    """A loaded workflow with its decoded history; None where that cannot be decoded."""

    loaded: Loaded
    history: History | None


class Recovery:
    """Continues what a previous process left."""

    def __init__(
        self,
        *,
        engine: Engine,
        guard: CrashGuard,
        marker: CrashMarker,
        store: Store,
        retrying: RetryingStore,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._guard = guard
        self._marker = marker
        self._store = store
        self._retrying = retrying
        self._clock = clock
        #: Whether this process's life is recorded.
        self.begun = False
        #: Whether everything that was in progress is in memory again.
        self.done = False

    async def run(self) -> None:
        """Load everything that was in progress when the last process ended, as often as the store must be asked."""
        began = self._clock.monotonic()
        now = micros_of(self._clock.time())
        life = Life(self._engine.replica_id, now, now, drained=False)
        previous = await self._retrying.until_done(lambda: self._store.begin_life(life))
        self.begun = True
        ledger = await self._retrying.until_done(self._store.suspects)
        recovered = await self._load({suspect.key for suspect in ledger})
        in_flight = {unit: sequence for each in recovered for unit, sequence in _units(each)}
        executing = {unit for unit, sequence in in_flight.items() if (unit.key, sequence) in self._marker.left_attempts}
        if self._marker.left:
            code = Unit(self._marker.left, "")
            in_flight[code] = 0
            executing.add(code)
        left_behind = self._blame_owners(recovered, in_flight, executing)
        quarantined = await self._guard.judge(previous, ledger, in_flight, executing, left_behind=left_behind)
        self._engine.open()
        for index, (loaded, history) in enumerate(recovered):
            retry = loaded.row.reason in _RETRIED_BY_CODE
            self._engine.bring_in(loaded, history=history, retry=retry)
            if index % LOAD_PAGE == LOAD_PAGE - 1:
                await asyncio.sleep(0)  # The first workflows continue while the rest is brought in.
        self._engine.load([])  # Not before, because recovery brings a workflow in with what it knows of it.
        self.done = True
        if previous is not None:
            log.info(
                "recovered",
                workflows=len(recovered),
                quarantined=quarantined,
                previous_replica_id=previous.replica_id,
                drained=previous.drained,
                seconds=round(self._clock.monotonic() - began, 3),
            )

    def _blame_owners(self, recovered: Iterable[_Recovered], in_flight: dict[Unit, int], executing: set[Unit]) -> bool:
        """Add the owners of closed attempts whose code still executed; return whether an owner has ended."""
        is_open = {each.loaded.row.key for each in recovered}
        attempts = {(unit.key, sequence) for unit, sequence in in_flight.items()}
        ended = False
        for key, _ in self._marker.left_attempts - attempts:
            units = {unit for unit in in_flight if unit.key == key}
            if not units and key in is_open:
                units = {Unit(key, "")}
                in_flight[Unit(key, "")] = 0
            executing |= units
            ended |= not units
        return ended

    async def _load(self, suspects: set[int]) -> list[_Recovered]:
        """Load what is in progress, suspect, or stopped for a reason that may be over, and the owners of marks."""
        keys = set(suspects)
        keys.update(await self._keys(None))
        for reason in _REASONS:
            keys.update(await self._keys(reason))
        owners = {key for key, _ in self._marker.left_attempts} - keys
        ordered = sorted(keys | owners)
        recovered: list[_Recovered] = []
        for start in range(0, len(ordered), LOAD_PAGE):
            for loaded in await self._retrying.load(ordered[start : start + LOAD_PAGE]):
                if loaded.row.key in owners and loaded.row.state in FINAL_STATES:
                    continue  # It ended before its code did.
                try:
                    history = History.of(loaded.events)
                except Exception:  # noqa: BLE001 - the loader reports it when it brings the workflow in
                    history = None
                recovered.append(_Recovered(loaded, history))
        return recovered

    async def _keys(self, reason: int | None) -> list[int]:
        keys: list[int] = []
        while True:
            page = await self._retrying.until_done(partial(self._page, reason, keys[-1] if keys else 0))
            keys += page
            if len(page) < KEY_PAGE:
                return keys

    async def _page(self, reason: int | None, after: int) -> list[int]:
        if reason is None:
            return await self._store.in_progress(after_key=after, limit=KEY_PAGE)
        return await self._store.stopped_for(reason, after_key=after, limit=KEY_PAGE)


def _units(recovered: _Recovered) -> list[tuple[Unit, int]]:
    """Return what of a workflow was in flight, with the sequence of its AttemptStarted."""
    if recovered.history is None:
        return []
    key = recovered.loaded.row.key
    return [
        (Unit(key, record.key), record.started.sequence)
        for record in recovered.history.open_attempts()
        if record.started
    ]
