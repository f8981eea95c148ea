"""The other replicas of the store: their work is taken over when they end, and shared when they leave.

Each look reads the open replicas. One is *doubtful* while its lock is free, or its lease has run out. It may come back
in a grace, in which its histories are read ahead; after that it has ended. An outage of the database takes locks and
leases from all replicas, so one that has lost its own lately does not judge. One replica becomes the judge of an end
(`Takeover`). What a replica has left without a crash, or what falls due of it later, is claimed by the replica that
looks first, a page at a time (`Orphans`).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.engine.sharing import Sharing
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.replicas import Peer
    from mendflow_server.store.retrying import RetryingStore
    from mendflow_server.supervisor.database_clock import DatabaseClock
    from mendflow_server.supervisor.orphans import Orphans
    from mendflow_server.supervisor.takeover import Takeover
    from mendflow_server.supervisor.this_replica import ThisReplica

__all__ = ["Replicas"]

log = structlog.get_logger("mendflow.supervisor")

#: The time between two looks, in seconds.
LOOK: Final = 0.25
#: How long a doubtful replica may come back, in seconds.
GRACE: Final = 0.5


class Replicas:
    """Looks at the replicas, and acts on what it sees. ``grace`` is how long a doubtful replica may come back."""

    def __init__(
        self,
        *,
        this: ThisReplica,
        sharing: Sharing,
        takeover: Takeover,
        orphans: Orphans,
        database_clock: DatabaseClock,
        retrying: RetryingStore,
        clock: Clock,
        grace: float = GRACE,
    ) -> None:
        self.this = this
        self._grace = grace
        self.orphans = orphans
        self._shared = sharing.store
        self._roster = sharing.roster
        self._takeover = takeover
        self._database_clock = database_clock
        self._retrying = retrying
        self._clock = clock
        #: Since when replicas are doubtful, by number, in monotonic seconds.
        self._doubtful_since: dict[int, float] = {}
        #: A replica with other code has come, and this one has not given up yet what its own code has stopped.
        self._newcomer = False

    async def recover(self) -> None:
        """Join the other replicas, and continue what ended ones have left."""
        await self._retrying.until_done(lambda: self._database_clock.follow(at_start=True))
        await self.this.begin()
        self.orphans.look_for_stopped()
        await self._retrying.until_done(self.step)

    async def run(self) -> None:
        """Look until cancelled."""
        failed = ""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._roster.left.wait(), LOOK)
                self._roster.left.clear()
                self.orphans.look_for_stopped()
            try:
                await self.step()
            except StoreError as error:
                if failed != str(error):
                    failed = str(error)
                    log.warning("replicas_not_seen", error=failed)
            else:
                failed = ""

    async def step(self) -> None:
        """Look once, and act on what is seen."""
        try:
            await self._look()
        except StoreError:
            self.orphans.look_for_stopped()  # This look may have been the one that would have found them.
            raise

    def look_soon(self) -> None:
        """Look at once, because a beat has failed: another replica may continue the workflows of this one."""
        self._roster.left.set()

    async def _look(self) -> None:
        this, roster = self.this, self._roster
        this.check_lease()
        before, roster.peers = roster.peers, await self._shared.peers()
        if roster.mine is None or roster.mine.judge:
            if not this.draining:
                await this.rejoin()
                self.orphans.look_for_stopped()
            return
        self._note_doubtful(roster.peers)
        if this.draining:
            return
        await self._note_changes(before, roster.peers)
        await this.continue_after_lost_lease()
        for peer in roster.others:
            await self._look_at(peer)
        if await self.orphans.claim():
            roster.left.set()  # There may be more.
        await self._database_clock.follow(at_start=False)

    def _note_doubtful(self, peers: Sequence[Peer]) -> None:
        now = self._clock.monotonic()
        self._takeover.forget_all_but({peer.replica_id for peer in peers})
        self._doubtful_since = {
            peer.number: self._doubtful_since.get(peer.number, now)
            for peer in peers
            if not (peer.has_lock and peer.has_lease)
        }

    async def _note_changes(self, before: Sequence[Peer], peers: Sequence[Peer]) -> None:
        """Look for what those have stopped that are gone, and offer newcomers what this replica has stopped."""
        was, there = {peer.replica_id: peer for peer in before}, {peer.replica_id: peer for peer in peers}
        for name in there.keys() - was.keys() - {self.this.replica_id}:
            log.info("replica_seen", replica_id=name, build=there[name].build)
        for name in was.keys() - there.keys():
            log.info("replica_gone", replica_id=name)
            self.orphans.look_for_stopped()
        builds = {peer.build for peer in peers if not peer.judge}
        if before and builds - {peer.build for peer in before}:
            self.orphans.look_for_stopped()
            self._newcomer = True
        if self._newcomer:
            await self.this.give_up_stopped()
            self._newcomer = False

    async def _look_at(self, peer: Peer) -> None:
        """Take over the work of another replica if it has ended, and read it ahead if it may have."""
        if not self.this.may_judge:
            return
        if peer.judge:
            # Its judge may have ended as well, or this replica was interrupted in a judgement.
            if peer.judge not in {each.replica_id for each in self._roster.others}:
                await self._takeover.run(peer)
            return
        since = self._doubtful_since.get(peer.number)
        if since is None:
            return
        # A replica that was stopped keeps its lock, and its lease was its grace.
        is_stopped = peer.has_lock and not self.this.is_new
        if is_stopped or self._clock.monotonic() - since >= self._grace:
            await self._takeover.run(peer)
        else:
            await self._takeover.read_ahead(peer, since + self._grace)
