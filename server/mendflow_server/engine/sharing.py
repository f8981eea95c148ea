"""Which workflows this replica drives, where several replicas share a store.

Only the replica that is named in a workflow's row drives it. A workflow whose replica is gone is claimed first; one of
a living replica is left to that one, which gets a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mendflow_server.history.state import FINAL_STATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mendflow_server.engine.notices import Notices
    from mendflow_server.runtime.identity import Identity
    from mendflow_server.store.replicas import ReplicaStore
    from mendflow_server.store.retrying import RetryingStore

log = structlog.get_logger("mendflow.engine")


class Sharing:
    """The division of work among replicas, as this one sees it."""

    def __init__(self, *, store: ReplicaStore, retrying: RetryingStore, identity: Identity, notices: Notices) -> None:
        self._store = store
        self._retrying = retrying
        self._identity = identity
        self._notices = notices
        #: The other builds that live replicas serve.
        self.other_builds: frozenset[str] = frozenset()
        #: The workflows that no other build can continue either, so that this replica stops them.
        self._unfit_everywhere: set[int] = set()

    async def mine(self, keys: Sequence[int], claimed: Mapping[int, str]) -> dict[int, str | None]:
        """Return those of these workflows that this replica drives, with the earlier replica of a claimed one.

        Claim those whose replica is gone. ``claimed`` has those that were claimed just now.
        """
        mine: dict[int, str | None] = dict(claimed)
        rest = [key for key in keys if key not in mine]
        if not rest:
            return mine
        rows = await self._retrying.until_done(lambda: self._store.rows(rest))
        gone: list[int] = []
        for key, row in rows.items():
            if row.replica_id == self._identity.replica_id:
                mine[key] = None
            elif row.state not in FINAL_STATES:
                gone.append(key)
        if gone:
            # The database decides whether their replicas are gone.
            found = await self._retrying.until_done(lambda: self._store.claim_keys(gone))
            mine.update((key, each.replica_id) for key, each in found.items())
            self._notices.messages(key for key in gone if key not in found)
        return mine

    def may_fit_elsewhere(self, key: int) -> bool:
        """Return whether a replica with other code may continue a workflow that this one's code cannot."""
        if key in self._unfit_everywhere:
            self._unfit_everywhere.discard(key)
            return False
        return bool(self.other_builds)

    async def leave_to_other_build(self, key: int) -> bool:
        """Give up a workflow of which nothing is in memory; return False if no other build may continue it.

        Then it is loaded again, and stopped.
        """
        noted = await self._retrying.until_done(lambda: self._store.unfit_builds(key))
        if not self.other_builds - noted:
            self._unfit_everywhere.add(key)
            return False
        await self._retrying.until_done(lambda: self._store.release_unfit(key))
        log.info("workflow_left_to_other_build", key=key)
        self._notices.left()
        return True
