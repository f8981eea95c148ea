"""Taking over the work of a replica that has ended: read ahead, judged, claimed and continued."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.engine.loader import LOAD_PAGE
from mendflow_server.execution.crash_marker import read_marks
from mendflow_server.store.records import Life
from mendflow_server.store.replicas import Claimed
from mendflow_server.supervisor.judgement import Left, decoded
from mendflow_server.supervisor.unfinished import REASONS, Unfinished

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mendflow_server.engine.cache import ExecutionCache
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.identity import Identity
    from mendflow_server.store.interface import Store
    from mendflow_server.store.replicas import Peer, ReplicaStore
    from mendflow_server.store.retrying import RetryingStore
    from mendflow_server.supervisor.judgement import Judge

__all__ = ["Takeover", "claim_all"]

log = structlog.get_logger("mendflow.supervisor")

#: The most workflows that one claim takes.
PAGE: Final = 1_000


class Takeover:
    """Continues what ended replicas had in progress."""

    def __init__(
        self,
        *,
        store: Store,
        shared: ReplicaStore,
        retrying: RetryingStore,
        judge: Judge,
        cache: ExecutionCache,
        identity: Identity,
        clock: Clock,
    ) -> None:
        self._store = store
        self._shared = shared
        self._retrying = retrying
        self._judge = judge
        self._cache = cache
        self._identity = identity
        self._clock = clock
        self._unfinished = Unfinished(store, retrying)
        #: Histories that were read ahead, by replica id and key.
        self._read: dict[str, dict[int, Left]] = {}

    async def read_ahead(self, peer: Peer, until: float) -> None:
        """Read histories of a replica that may have ended, until a moment in monotonic seconds. Write nothing."""
        read = self._read.setdefault(peer.replica_id, {})
        while self._clock.monotonic() < until:
            keys = await self._shared.moving(peer.replica_id, after_key=max(read, default=0), limit=LOAD_PAGE)
            if not keys:
                return
            for loaded in await self._store.load(keys):
                read[loaded.row.key] = decoded(loaded)
                await asyncio.sleep(0)

    def forget_all_but(self, replica_ids: set[str]) -> None:
        """Forget what was read ahead of other replicas than these."""
        self._read = {name: read for name, read in self._read.items() if name in replica_ids}

    async def run(self, peer: Peer) -> None:
        """Become the judge of a replica's end, and continue what was in progress there."""
        began = self._clock.monotonic()
        unknown = self._shared.unknown_writes
        ledger = await self._shared.begin_judgement(peer)
        if ledger is None:
            return
        gone = [peer.replica_id]
        claimed = await claim_all(partial(self._shared.claim_moving, gone), self._retrying)
        claimed |= await claim_all(partial(self._shared.claim_stopped, gone, REASONS), self._retrying)
        if peer.judge == self._identity.replica_id or self._shared.unknown_writes != unknown:
            # A judgement that was interrupted, or a claim of unknown outcome, has claimed some before.
            for key in await self._unfinished.keys():
                if key not in claimed and key not in self._cache:
                    claimed[key] = Claimed(peer.replica_id, 0, 0)
        left = await self._load(peer, claimed)
        # A lease that ran out while the lock is held: the process was stopped or is unreachable, and did not crash.
        innocent = peer.has_lock
        life = Life(peer.replica_id, peer.start_time, peer.beat_time, drained=innocent)
        path = self._shared.crash_marker_of(peer)
        quarantined = await self._judge.judge(life, ledger, left, None if path is None else read_marks(path))
        await self._judge.bring_in(left, claimed)
        await self._retrying.until_done(lambda: self._shared.end_judgement(peer))
        log.warning(
            "replica_taken_over",
            previous_replica_id=peer.replica_id,
            reason="its lease ran out" if innocent else "its process or its connection to the database ended",
            workflows=len(left),
            quarantined=quarantined,
            seconds=round(self._clock.monotonic() - began, 3),
        )

    async def _load(self, peer: Peer, claimed: Mapping[int, Claimed]) -> list[Left]:
        """Return the claimed workflows: as they were read ahead, where they have not changed since."""
        read = self._read.pop(peer.replica_id, {})
        left: list[Left] = []
        missing: list[int] = []
        for key in sorted(claimed):
            known, now = read.get(key), claimed[key]
            # The claim has raised the generation.
            if known is None or (known.loaded.row.generation + 1, known.loaded.row.last_sequence) != now[1:]:
                missing.append(key)
                continue
            known.loaded.row.replica_id = self._identity.replica_id
            known.loaded.row.generation = now.generation
            left.append(known)
        for start in range(0, len(missing), LOAD_PAGE):
            found = await self._retrying.load(missing[start : start + LOAD_PAGE])
            left += [decoded(loaded) for loaded in found]
        return left


async def claim_all(
    claim: Callable[..., Awaitable[Mapping[int, Claimed]]], retrying: RetryingStore
) -> dict[int, Claimed]:
    """Claim page after page, as often as the store must be asked; return what was claimed."""
    claimed: dict[int, Claimed] = {}
    while True:
        page = await retrying.until_done(partial(claim, limit=PAGE))
        claimed.update(page)
        if len(page) < PAGE:
            return claimed
