"""Orphans: workflows whose replica is gone, or has given them up. The replica that looks first claims them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from mendflow_server.history.timestamps import micros_of
from mendflow_server.supervisor.takeover import claim_all
from mendflow_server.supervisor.unfinished import REASONS, Unfinished

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.engine.cache import ExecutionCache
    from mendflow_server.engine.loader import Loader
    from mendflow_server.engine.sharing import Sharing
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.interface import Store
    from mendflow_server.store.retrying import RetryingStore

__all__ = ["Orphans"]

#: The workflows that are due within so many seconds are claimed.
_HORIZON: Final = 1.0
#: The most workflows that one look claims.
_PAGE: Final = 250
#: A message that has waited for so many seconds is delivered without a notice, and the most that one look finds.
_MESSAGE_PATIENCE: Final = 1.0
_MESSAGE_PAGE: Final = 1_000
#: After a replica has come or gone, the others look so long for workflows that are stopped, in seconds.
_STOPPED_PATIENCE: Final = 5.0
#: A replica is busier than the others with so many times their mean of workflows in memory, and so many more.
_BUSY_FACTOR: Final = 1.5
_BUSY_MARGIN: Final = 100


class Orphans:
    """Claims and loads what has no replica. ``limit`` is the most workflows in memory."""

    def __init__(
        self,
        *,
        store: Store,
        sharing: Sharing,
        retrying: RetryingStore,
        loader: Loader,
        cache: ExecutionCache,
        clock: Clock,
        limit: int,
    ) -> None:
        self._sharing = sharing
        self._shared = sharing.store
        self._retrying = retrying
        self._loader = loader
        self._cache = cache
        self._clock = clock
        self._limit = limit
        self._unfinished = Unfinished(store, retrying)
        #: Until when this replica looks for what is stopped, in monotonic seconds.
        self._stopped_until = clock.monotonic() + _STOPPED_PATIENCE
        #: How many writes of unknown outcome were looked into.
        self._unknown_seen = 0

    def look_for_stopped(self) -> None:
        """Look for stopped workflows for a while, because a replica has come or gone, or has given up some."""
        self._stopped_until = self._clock.monotonic() + _STOPPED_PATIENCE

    async def claim(self) -> bool:
        """Claim a page of the orphans; return whether there may be more."""
        if self._clock.monotonic() < self._stopped_until:
            await self._claim_stopped()
        more = await self._claim_page()
        await self._deliver()
        await self._find_claimed()
        return more

    async def keep(self, due: Sequence[int]) -> Sequence[int]:
        """Return those of its due workflows that this replica drives itself.

        One that has much more in memory than the others gives up half of them, and another one claims them.
        """
        loads = [peer.load for peer in self._sharing.roster.peers]
        alone = len(loads) < 2  # noqa: PLR2004 - this one and another
        if not due or alone or len(self._cache) <= _BUSY_FACTOR * sum(loads) / len(loads) + _BUSY_MARGIN:
            return due
        return due[1::2] if await self._sharing.release(due[::2]) else due

    async def _claim_stopped(self) -> None:
        """Claim what is stopped. A workflow that was paused because of its code may continue here."""
        gone = await self._shared.orphaned_stopped(REASONS)
        if gone:
            claimed = await claim_all(partial(self._shared.claim_stopped, gone, REASONS), self._retrying)
            self._loader.load_claimed(claimed, retry=True)

    async def _claim_page(self) -> bool:
        """Claim a page of what is in progress, or due; return whether there may be more."""
        limit = min(self._limit - len(self._cache) - self._loader.loading, _PAGE)
        if limit <= 0:
            return False
        until = micros_of(self._clock.time() + _HORIZON)
        gone = await self._shared.orphaned(until)
        if not gone:
            return False
        claimed = dict(await self._shared.claim_moving(gone, limit=limit))
        if len(claimed) < limit:
            claimed.update(await self._shared.claim_due(gone, until, limit=limit - len(claimed)))
        self._loader.load_claimed(claimed)
        return len(claimed) == limit

    async def _deliver(self) -> None:
        """Deliver the messages whose notices were lost."""
        until = micros_of(self._clock.time() - _MESSAGE_PATIENCE)
        found = await self._shared.waiting_messages(until, limit=_MESSAGE_PAGE)
        elsewhere = {peer.replica_id for peer in self._sharing.roster.others}
        self._loader.deliver_inboxes(key for key, replica_id in found.items() if replica_id not in elsewhere)

    async def _find_claimed(self) -> None:
        """Load what a claim of unknown outcome may have claimed."""
        unknown = self._shared.unknown_writes
        if unknown != self._unknown_seen:
            self._loader.load(sorted(await self._unfinished.keys()))
            self._unknown_seen = unknown
