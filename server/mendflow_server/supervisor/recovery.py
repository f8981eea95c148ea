"""Recovery at the start: of what the last process has left, where one server has the store for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mendflow_server.engine.loader import LOAD_PAGE
from mendflow_server.history.state import FINAL_STATES
from mendflow_server.history.timestamps import micros_of
from mendflow_server.store.records import Life
from mendflow_server.supervisor.judgement import Left, decoded
from mendflow_server.supervisor.unfinished import Unfinished

if TYPE_CHECKING:
    from mendflow_server.engine.loader import Loader
    from mendflow_server.execution.crash_marker import CrashMarker
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.identity import Identity
    from mendflow_server.store.interface import Store
    from mendflow_server.store.retrying import RetryingStore
    from mendflow_server.supervisor.judgement import Judge

log = structlog.get_logger("mendflow.supervisor")


class Recovery:
    """Records the life of this process, and continues what a previous one has left."""

    def __init__(
        self,
        *,
        identity: Identity,
        loader: Loader,
        judge: Judge,
        marker: CrashMarker,
        store: Store,
        retrying: RetryingStore,
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._loader = loader
        self._judge = judge
        self._marker = marker
        self._store = store
        self._retrying = retrying
        self._clock = clock
        self._unfinished = Unfinished(store, retrying)
        #: Whether this process's life is recorded.
        self.begun = False

    async def begin(self) -> Life | None:
        """Record the life of this process; return the one before, None on a new store."""
        now = micros_of(self._clock.time())
        life = Life(self._identity.replica_id, now, now, drained=False)
        previous = await self._retrying.until_done(lambda: self._store.begin_life(life))
        self.begun = True
        return previous

    async def run(self) -> None:
        """Load everything that was in progress when the last process ended, as often as the store must be asked."""
        began = self._clock.monotonic()
        previous = await self.begin()
        ledger = await self._retrying.until_done(self._store.suspects)
        left = await self._load({suspect.key for suspect in ledger})
        quarantined = await self._judge.judge(previous, ledger, left, self._marker.left)
        self._loader.open()
        await self._judge.bring_in(left)
        self._loader.load([])  # Not before, because recovery brings a workflow in with what it knows of it.
        if previous is not None:
            log.info(
                "recovered",
                workflows=len(left),
                quarantined=quarantined,
                previous_replica_id=previous.replica_id,
                drained=previous.drained,
                seconds=round(self._clock.monotonic() - began, 3),
            )

    async def _load(self, suspects: set[int]) -> list[Left]:
        """Load what is in progress, suspect, or stopped for a reason that may be over, and the owners of marks."""
        keys = suspects | await self._unfinished.keys()
        owners = {key for key, _ in self._marker.left.attempts} - keys
        ordered = sorted(keys | owners)
        left: list[Left] = []
        for start in range(0, len(ordered), LOAD_PAGE):
            for loaded in await self._retrying.load(ordered[start : start + LOAD_PAGE]):
                if loaded.row.key in owners and loaded.row.state in FINAL_STATES:
                    continue  # It ended before its code did.
                left.append(decoded(loaded))
        return left
