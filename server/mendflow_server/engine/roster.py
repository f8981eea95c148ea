"""The open replicas of the store, as this one saw them last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.runtime.identity import Identity
    from mendflow_server.store.replicas import Peer

__all__ = ["Roster"]


class Roster:
    """The replicas that are there. `Replicas` puts what it sees here, and others read it."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.peers: Sequence[Peer] = ()
        #: Set when another replica has given up workflows, which any replica may claim.
        self.left = asyncio.Event()

    @property
    def mine(self) -> Peer | None:
        """This replica; None before its first look, or when it has no open row any more."""
        return next((peer for peer in self.peers if peer.replica_id == self._identity.replica_id), None)

    @property
    def others(self) -> list[Peer]:
        """The other replicas, also those whose end is judged just now."""
        return [peer for peer in self.peers if peer.replica_id != self._identity.replica_id]

    @property
    def other_builds(self) -> frozenset[str]:
        """The builds of living replicas that are not this one's."""
        mine = self.mine
        return frozenset(peer.build for peer in self.others if not peer.judge) - {mine.build if mine else ""}
