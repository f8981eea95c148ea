"""Which workflows this replica drives, where several replicas share a store.

Only the replica that is named in a workflow's row drives it. A workflow whose replica is gone is claimed first; one of
a living replica is left to that one, which gets a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mendflow_server.engine.notices import Notices
from mendflow_server.engine.roster import Roster
from mendflow_server.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mendflow_server.runtime.identity import Identity
    from mendflow_server.store.replicas import Claimed, ReplicaStore
    from mendflow_server.store.retrying import RetryingStore

log = structlog.get_logger("mendflow.engine")


class Sharing:
    """The division of work among replicas, as this one sees it."""

    def __init__(self, *, store: ReplicaStore, retrying: RetryingStore, identity: Identity) -> None:
        self.store = store
        self._retrying = retrying
        #: Who is there.
        self.roster = Roster(identity)
        #: What this replica reports to the others.
        self.notices = Notices(store.post, self.roster)
        #: The workflows that no other build can continue either, so that this replica stops them.
        self._unfit_everywhere: set[int] = set()

    async def claim(self, keys: Sequence[int]) -> Mapping[int, Claimed]:
        """Claim those of these workflows whose replica is gone. The replicas of the others get a notice.

        The database decides which are gone.
        """
        claimed = await self._retrying.until_done(lambda: self.store.claim_keys(keys))
        self.notices.messages(key for key in keys if key not in claimed)
        return claimed

    async def release(self, keys: Sequence[int]) -> bool:
        """Give up workflows of which nothing is in memory, so that others may claim them; return whether it worked."""
        try:
            await self.store.release(keys)
        except StoreError as error:
            # They stay this replica's. The others claim them when it has left.
            log.warning("workflows_not_released", error=str(error), workflows=len(keys))
            return False
        self.notices.left()
        return True

    def may_fit_elsewhere(self, key: int) -> bool:
        """Return whether a replica with other code may continue a workflow that this one's code cannot."""
        if key in self._unfit_everywhere:
            self._unfit_everywhere.discard(key)
            return False
        return bool(self.roster.other_builds)

    async def leave_to_other_build(self, key: int) -> bool:
        """Give up a workflow of which nothing is in memory; return False if no other build may continue it.

        Then it is loaded again, and stopped.
        """
        noted = await self._retrying.until_done(lambda: self.store.unfit_builds(key))
        if not self.roster.other_builds - noted:
            self._unfit_everywhere.add(key)
            return False
        await self._retrying.until_done(lambda: self.store.release_unfit(key))
        log.info("workflow_left_to_other_build", key=key)
        self.notices.left()
        return True
