"""This replica among the others: whether it may drive its workflows, and how it joins again when it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mendflow_server.supervisor.unfinished import STOPPED_BY_CODE

if TYPE_CHECKING:
    from mendflow_server.engine.engine import Engine
    from mendflow_server.engine.sharing import Sharing
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.identity import Identity
    from mendflow_server.supervisor.judgement import Judge
    from mendflow_server.supervisor.lease import Lease
    from mendflow_server.supervisor.recovery import Recovery
    from mendflow_server.supervisor.unfinished import Unfinished

__all__ = ["ThisReplica"]

log = structlog.get_logger("mendflow.supervisor")


class ThisReplica:
    """The lease of this replica, and what is in its memory."""

    def __init__(
        self,
        *,
        engine: Engine,
        sharing: Sharing,
        identity: Identity,
        recovery: Recovery,
        judge: Judge,
        lease: Lease,
        unfinished: Unfinished,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._sharing = sharing
        self._identity = identity
        self._recovery = recovery
        self._judge = judge
        self._lease = lease
        self._unfinished = unfinished
        self._clock = clock
        self._began = clock.monotonic()
        #: The lease ran out, and what was in memory is evicted.
        self.lost_lease = False

    @property
    def failure(self) -> str:
        """Why this replica drives nothing; empty while it has its lease."""
        if self.lost_lease:
            return "this replica could not renew its lease, so other replicas may drive its workflows"
        return ""

    @property
    def replica_id(self) -> str:
        """Its id."""
        return self._identity.replica_id

    @property
    def draining(self) -> bool:
        """Whether it takes over nothing more."""
        return self._engine.draining

    @property
    def may_judge(self) -> bool:
        """Whether the others could renew their leases and keep their locks, as this replica could."""
        steady = max(self._lease.held_since, self._sharing.store.lock_kept_since)
        return self._lease.is_valid and self._clock.monotonic() - steady >= self._lease.seconds

    @property
    def is_new(self) -> bool:
        """Whether it does not know of an outage after which the others have yet to renew their leases."""
        return self._clock.monotonic() - self._began < self._lease.seconds

    async def begin(self) -> None:
        """Join the other replicas."""
        await self._recovery.begin()
        self._lease.renew(self._clock.monotonic())
        self._engine.loader.open()

    async def rejoin(self) -> None:
        """Become another replica, because another one continues the workflows of this one."""
        earlier = self._identity.replica_id
        # The store refuses what is submitted if another replica was faster.
        self._engine.cache.evict_all()
        self._judge.forget()
        self._identity.renew()
        await self.begin()
        self.lost_lease = False
        log.warning("replica_fenced", previous_replica_id=earlier, replica_id=self._identity.replica_id)

    def beat_began(self, moment: float) -> None:
        """Note when a beat that succeeded began, in monotonic seconds."""
        self._lease.renew(moment)

    def check_lease(self) -> None:
        """Evict everything if the lease ran out and another replica may have taken it."""
        if self._sharing.roster.others and not self.lost_lease and not self._lease.is_valid:
            self.lost_lease = True
            log.error("lease_lost", replica_id=self._identity.replica_id, seconds=self._lease.seconds)
            self._engine.cache.evict_all()

    async def continue_after_lost_lease(self) -> None:
        """Load what is still this replica's, because no other took it before the lease was renewed."""
        if not (self.lost_lease and self._lease.is_valid):
            return
        keys = await self._unfinished.keys()
        self.lost_lease = False
        self._engine.loader.load(sorted(keys))
        log.info("lease_renewed", replica_id=self._identity.replica_id, workflows=len(keys))

    async def give_up_stopped(self) -> None:
        """Give up what this replica's code has stopped, because the code of a newcomer may continue it."""
        await self._sharing.store.release_stopped(STOPPED_BY_CODE)
        self._engine.cache.evict_stopped(STOPPED_BY_CODE)
        self._sharing.notices.left()
