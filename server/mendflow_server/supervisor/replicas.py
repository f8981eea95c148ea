"""The other replicas of the store: their work is taken over when they end, and shared when they leave.

Each look reads the open replicas. A replica has ended when its lock has been free for a while (`GRACE`), in which its
histories are read ahead, or when its lease has run out. An outage of the database takes locks and leases from all
replicas, so one that has lost its own lately does not judge. One replica becomes the judge of an end. It claims what
was in progress there, which fences that replica, applies the crash budget, and continues the workflows. What a replica
has left without a crash, or what falls due of it later, is claimed by the replica that looks first, a page at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.engine.loader import LOAD_PAGE
from mendflow_server.execution.crash_marker import read_marks
from mendflow_server.history.timestamps import micros_of
from mendflow_server.store.errors import StoreError
from mendflow_server.store.records import Life
from mendflow_server.store.replicas import Claimed
from mendflow_server.supervisor.judgement import REASONS, STOPPED_BY_CODE, Left, decoded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from mendflow_server.engine.engine import Engine
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.interface import Store
    from mendflow_server.store.replicas import Peer, ReplicaStore
    from mendflow_server.store.retrying import RetryingStore
    from mendflow_server.supervisor.judgement import Judge
    from mendflow_server.supervisor.recovery import Recovery

log = structlog.get_logger("mendflow.supervisor")

#: The time between two looks, in seconds.
LOOK: Final = 0.25
#: How long a replica's lock must be free before it counts as ended, in seconds. It may come back in that time.
GRACE: Final = 0.5
#: The workflows that are due within so many seconds are claimed.
HORIZON: Final = 1.0
#: The most workflows that one claim takes: from one that has ended, and of what any may claim.
JUDGED_PAGE: Final = 1_000
CLAIMED_PAGE: Final = 250
#: A message that has waited for so many seconds is delivered without a notice.
MESSAGE_PATIENCE: Final = 1.0
#: After a replica has come or gone, the others look so long for workflows that are stopped, in seconds.
STOPPED_PATIENCE: Final = 5.0
#: A replica is busier than the others with so many times their mean of workflows in memory, and so many more.
BUSY_FACTOR: Final = 1.5
BUSY_MARGIN: Final = 100
#: How often the clock is compared with that of the database, and how much they may differ, in seconds.
CLOCK_LOOK: Final = 10.0
CLOCK_TOLERANCE: Final = 0.05
#: The most messages that one look finds.
MESSAGE_PAGE: Final = 1_000


class Replicas:
    """The work that this replica takes over from others, and its own lease."""

    def __init__(
        self,
        *,
        engine: Engine,
        recovery: Recovery,
        judge: Judge,
        store: Store,
        shared: ReplicaStore,
        retrying: RetryingStore,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._recovery = recovery
        self._judge = judge
        self._store = store
        self._shared = shared
        self._retrying = retrying
        self._clock = clock
        #: Since when each replica's lock is seen to be free, by number, in monotonic seconds.
        self._free_since: dict[int, float] = {}
        self._peers: Sequence[Peer] = ()
        self._wake = asyncio.Event()
        #: When the last beat that succeeded began, and since when there was one in each lease, in monotonic seconds.
        self._last_beat = clock.monotonic()
        self._steady_since = float("-inf")
        #: What is added to the wall clock, in seconds, and when it is looked at again, in monotonic seconds.
        self._offset = 0.0
        self._clock_due = float("-inf")
        #: Histories that were read ahead, by replica id and key.
        self._read: dict[str, dict[int, Left]] = {}
        #: Until when this replica looks for what others have stopped, in monotonic seconds.
        self._stopped_until = clock.monotonic() + STOPPED_PATIENCE
        #: A replica with other code has come, and this one has not given up yet what its own code has stopped.
        self._newcomer = False
        #: How many writes of unknown outcome were looked into.
        self._unknown_seen = 0
        #: The lease ran out, and what was in memory is evicted.
        self.lost_lease = False

    @property
    def failure(self) -> str:
        """Why this replica drives nothing; empty while it has its lease."""
        return "this replica could not renew its lease, so other replicas may drive its workflows" * self.lost_lease

    def look_soon(self) -> None:
        """Look at once: another replica has given up workflows."""
        self._look_for_stopped()
        self._wake.set()

    def _look_for_stopped(self) -> None:
        self._stopped_until = self._clock.monotonic() + STOPPED_PATIENCE

    def beat_began(self, moment: float) -> None:
        """Note when a beat that succeeded began, in monotonic seconds."""
        if moment - self._last_beat > self._engine.settings.lease:
            self._steady_since = self._clock.monotonic()
        self._last_beat = moment

    async def run(self) -> None:
        """Look until cancelled."""
        failed = ""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK)
            self._wake.clear()
            if not self._recovery.done:
                continue
            try:
                await self.step()
            except StoreError as error:
                if failed != str(error):
                    failed = str(error)
                    log.warning("replicas_not_seen", error=failed)
            else:
                failed = ""

    async def recover(self) -> None:
        """Join the other replicas, and continue what ended ones have left."""
        await self._retrying.until_done(self._follow_clock)
        await self._recovery.begin()
        self._last_beat = self._clock.monotonic()
        self._look_for_stopped()
        self._engine.open()
        await self._retrying.until_done(self.step)
        self._recovery.done = True

    async def step(self) -> None:
        """Look once, and act on what is seen."""
        try:
            await self._look()
        except StoreError:
            self._look_for_stopped()  # This look may have been the one that would have found them.
            raise

    async def _look(self) -> None:
        self.check_lease()
        peers = await self._shared.peers()
        mine = [peer for peer in peers if peer.replica_id == self._engine.replica_id]
        if not mine or mine[0].judge:
            if not self._engine.draining:
                await self.rejoin()
            return
        await self._note(peers)
        if self._engine.draining:
            return
        if self.lost_lease:
            await self._return()
        for peer in peers:
            if peer is mine[0]:
                continue
            if self._has_ended(peer):
                await self._take_over(peer)
            elif self._may_end(peer):
                await self._read_ahead(peer)
        await self._claim()
        await self._deliver()
        await self._find_claimed()
        await self._follow_clock()

    async def keep(self, due: Sequence[int]) -> Sequence[int]:
        """Return those of its due workflows that this replica drives itself.

        One that has much more in memory than the others gives up half of them, and another one claims them.
        """
        loads = [peer.load for peer in self._peers]
        mine = self._engine.workflows_in_memory
        if not due or len(loads) < 2 or mine <= BUSY_FACTOR * sum(loads) / len(loads) + BUSY_MARGIN:  # noqa: PLR2004
            return due
        given_up = due[::2]
        try:
            await self._shared.release(given_up)
        except StoreError:
            return due
        if self._engine.notices is not None:
            self._engine.notices.left()
        return due[1::2]

    # This replica.

    async def _follow_clock(self) -> None:
        """Keep the wall clock with that of the database, so that the times of all replicas agree."""
        began = self._clock.monotonic()
        if began < self._clock_due:
            return
        before = self._clock.time() - self._clock.behind()
        there = await self._shared.database_time() / 1e6
        error = (self._clock.monotonic() - began) / 2
        self._clock_due = self._clock.monotonic() + CLOCK_LOOK
        difference = there - before - error
        if abs(difference) > error + CLOCK_TOLERANCE:
            self._offset += difference
            self._clock.follow(self._offset, at_start=not self._recovery.begun)
            log.warning("clock_follows_database", offset=round(self._offset, 3))

    def check_lease(self) -> None:
        """Evict everything if the lease ran out and another replica may have taken it."""
        others = any(peer.replica_id != self._engine.replica_id for peer in self._peers)
        if others and not self.lost_lease and self._clock.monotonic() - self._last_beat > self._engine.settings.lease:
            self.lost_lease = True
            log.error("lease_lost", replica_id=self._engine.replica_id, seconds=self._engine.settings.lease)
            self._engine.forget()

    async def _return(self) -> None:
        """Continue what is still this replica's, because no other took it before the lease was renewed."""
        if self._clock.monotonic() - self._last_beat > self._engine.settings.lease:
            return
        keys = await self._mine()
        self.lost_lease = False
        self._engine.load(keys)
        log.info("lease_renewed", replica_id=self._engine.replica_id, workflows=len(keys))

    async def rejoin(self) -> None:
        """Become another replica, because another one continues the workflows of this one."""
        earlier = self._engine.replica_id
        self._engine.forget()
        self._judge.forget()
        self._engine.rejoin()
        await self._recovery.begin()
        self._last_beat = self._clock.monotonic()
        self.lost_lease = False
        log.warning("replica_fenced", previous_replica_id=earlier, replica_id=self._engine.replica_id)

    # The others.

    async def _note(self, peers: Sequence[Peer]) -> None:
        """Note who is there. What those have stopped that are gone may continue here."""
        now = {peer.replica_id for peer in peers}
        gone = [peer.replica_id for peer in self._peers if peer.replica_id not in now]
        builds = {peer.build for peer in peers if not peer.judge}
        fresh = builds - {peer.build for peer in self._peers} if self._peers else set()
        self._peers = peers
        mine = {peer.build for peer in peers if peer.replica_id == self._engine.replica_id}
        if self._engine.sharing is not None:
            self._engine.sharing.other_builds = frozenset(builds - mine)
        self._read = {name: read for name, read in self._read.items() if name in now}
        self._free_since = {
            peer.number: self._free_since.get(peer.number, self._clock.monotonic())
            for peer in peers
            if not peer.has_lock
        }
        if self._engine.notices is not None:
            self._engine.notices.alone = len(peers) < 2  # noqa: PLR2004 - this one and another
        if self._engine.draining:
            return
        if fresh or gone:
            self._look_for_stopped()
        self._newcomer = self._newcomer or bool(fresh)
        if self._newcomer:
            # The code of the newcomer may continue what that of this replica cannot.
            await self._shared.release_stopped(STOPPED_BY_CODE)
            self._newcomer = False
            self._engine.cache.evict_stopped(STOPPED_BY_CODE)
            if self._engine.notices is not None:
                self._engine.notices.left()
        if self._clock.monotonic() < self._stopped_until:
            await self._claim_stopped(await self._shared.orphaned_stopped(REASONS))

    def _may_judge(self) -> bool:
        """Return whether the others could renew their leases and keep their locks, as this replica could."""
        now, lease = self._clock.monotonic(), self._engine.settings.lease
        steady = max(self._steady_since, self._shared.lock_kept_since)
        return now - self._last_beat <= lease <= now - steady

    def _may_end(self, peer: Peer) -> bool:
        return not peer.has_lock and not peer.judge and self._may_judge()

    def _has_ended(self, peer: Peer) -> bool:
        now = self._clock.monotonic()
        if not self._may_judge():
            return False
        if peer.judge:
            # Its judge may have ended as well, or this replica was interrupted in a judgement.
            alive = {each.replica_id for each in self._peers} - {self._engine.replica_id}
            return peer.judge not in alive
        if not peer.has_lease:
            return True
        freed = self._free_since.get(peer.number, now)
        return now - freed >= GRACE

    async def _take_over(self, peer: Peer) -> None:
        """Become the judge of a replica's end, and continue what was in progress there."""
        began = self._clock.monotonic()
        unknown = self._shared.unknown_writes
        ledger = await self._shared.begin_judgement(peer)
        if ledger is None:
            return
        claimed = await self._claim_pages(partial(self._shared.claim_moving, [peer.replica_id], limit=JUDGED_PAGE))
        stopped = partial(self._shared.claim_stopped, [peer.replica_id], REASONS, limit=JUDGED_PAGE)
        claimed |= await self._claim_pages(stopped)
        if peer.judge == self._engine.replica_id or self._shared.unknown_writes != unknown:
            # A judgement that was interrupted, or a claim of unknown outcome, has claimed some before.
            for key in await self._retrying.until_done(self._mine):
                if key not in claimed and not self._engine.has(key):
                    claimed[key] = Claimed(peer.replica_id, 0, 0)
        left = await self._load(claimed)
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

    async def _read_ahead(self, peer: Peer) -> None:
        """Read histories of a replica that may have ended, until it counts as ended. Nothing is written."""
        limit = self._free_since[peer.number] + GRACE
        read = self._read.setdefault(peer.replica_id, {})
        while self._clock.monotonic() < limit:
            keys = await self._shared.moving(peer.replica_id, after_key=max(read, default=0), limit=LOAD_PAGE)
            if not keys:
                return
            for loaded in await self._store.load(keys):
                read[loaded.row.key] = decoded(loaded)
                await asyncio.sleep(0)

    async def _load(self, claimed: Mapping[int, Claimed]) -> list[Left]:
        """Return the claimed workflows: as they were read ahead, where they have not changed since."""
        read = {key: left for each in self._read.values() for key, left in each.items()}
        self._read.clear()
        left: list[Left] = []
        missing: list[int] = []
        for key in sorted(claimed):
            known, now = read.get(key), claimed[key]
            if known is None or (known.loaded.row.generation + 1, known.loaded.row.last_sequence) != now[1:]:
                missing.append(key)
                continue
            known.loaded.row.replica_id = self._engine.replica_id
            known.loaded.row.generation = now.generation
            left.append(known)
        for start in range(0, len(missing), LOAD_PAGE):
            found = await self._retrying.load(missing[start : start + LOAD_PAGE])
            left += [decoded(loaded) for loaded in found]
        return left

    async def _claim_pages(self, claim: Callable[[], Awaitable[Mapping[int, Claimed]]]) -> dict[int, Claimed]:
        """Claim page after page, as often as the store must be asked."""
        claimed: dict[int, Claimed] = {}
        while True:
            page = await self._retrying.until_done(claim)
            claimed.update(page)
            if len(page) < JUDGED_PAGE:
                return claimed

    async def _claim_stopped(self, gone: Sequence[str]) -> None:
        """Claim and load what is stopped. A workflow that was paused because of its code may continue here."""
        if gone:
            claim = partial(self._shared.claim_stopped, gone, REASONS, limit=JUDGED_PAGE)
            self._engine.load_claimed(await self._claim_pages(claim), retry=True)

    async def _claim(self) -> None:
        """Claim a page of what replicas that are gone have in progress, or due."""
        room = (
            self._engine.settings.workflows_in_memory_limit
            - self._engine.workflows_in_memory
            - self._engine.workflows_loading
        )
        limit = min(room, CLAIMED_PAGE)
        until = micros_of(self._clock.time() + HORIZON)
        if limit <= 0:
            return
        gone = await self._shared.orphaned(until)
        if not gone:
            return
        claimed = dict(await self._shared.claim_moving(gone, limit=limit))
        if len(claimed) < limit:
            claimed.update(await self._shared.claim_due(gone, until, limit=limit - len(claimed)))
        if len(claimed) == limit:
            self._wake.set()
        self._engine.load_claimed(claimed)

    async def _find_claimed(self) -> None:
        """Load what a claim of unknown outcome may have claimed."""
        unknown = self._shared.unknown_writes
        if unknown != self._unknown_seen:
            self._engine.load(await self._mine())
            self._unknown_seen = unknown

    async def _mine(self) -> list[int]:
        """Return the workflows of this replica that are in progress, or stopped for a reason that may be over."""
        keys = await self._all(self._store.in_progress)
        for reason in REASONS:
            keys += await self._all(partial(self._store.stopped_for, reason))
        return keys

    async def _all(self, read: Callable[..., Awaitable[list[int]]]) -> list[int]:
        keys: list[int] = []
        while page := await read(after_key=keys[-1] if keys else 0, limit=JUDGED_PAGE):
            keys += page
        return keys

    async def _deliver(self) -> None:
        """Deliver the messages whose notices were lost."""
        until = micros_of(self._clock.time() - MESSAGE_PATIENCE)
        found = await self._shared.waiting_messages(until, limit=MESSAGE_PAGE)
        here = {peer.replica_id for peer in self._peers} - {self._engine.replica_id}
        for key, replica_id in found.items():
            if replica_id not in here:
                self._engine.loader.deliver_inbox(key)
