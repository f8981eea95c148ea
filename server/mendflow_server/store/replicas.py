"""The contract of a store that several replicas share.

A *replica* is a server process, from its start or its last rejoin on. Each workflow's row names one. Only the replica
that is named in the row drives the workflow, and only while its own row in ``replicas`` is open. A *claim* moves a
workflow to another replica and raises its generation, so that a change of the earlier one is refused.

A replica renews its *lease* with each beat, by the clock of the database, and holds a lock. When it has neither, or has
lost the lock for a while, another replica *judges* its end: it claims what was in progress there. From the moment
that it has a judge, a replica is *fenced*: it drives nothing more and joins again under a new id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mendflow_server.store.records import Row, Suspect


@dataclass(slots=True, frozen=True)
class Peer:
    """An open row in ``replicas``: a replica that lives, or whose end is not judged yet."""

    number: int
    replica_id: str
    start_time: int
    #: The time of the last beat, and until when the replica has its lease then, by the clock of the database.
    beat_time: int
    lease_end: int
    #: The replica id of the judge of its end; empty while it is not judged.
    judge: str
    #: How many workflows it has in memory.
    load: int
    #: The name of the code that it serves.
    build: str
    has_lease: bool
    has_lock: bool


class Claimed(NamedTuple):
    """A workflow that was claimed: its earlier replica, and its head now."""

    replica_id: str
    generation: int
    last_sequence: int


class ReplicaStore(Protocol):
    """What several replicas of one store need. ``replica_id`` is that of this process's newest life."""

    @property
    def lock_kept_since(self) -> float:
        """Since when this replica has held its lock without a break, in monotonic seconds."""

    @property
    def unknown_writes(self) -> int:
        """How many writes of this process had an unknown outcome. A claim may be among them."""

    async def database_time(self) -> int:
        """Return the time by the clock of the database, in microseconds since the epoch."""

    async def peers(self) -> list[Peer]:
        """Return the open replicas, the oldest first."""

    async def begin_judgement(self, peer: Peer) -> list[Suspect] | None:
        """Become the judge of a replica; return its part of the crash budget's ledger.

        Return None if it has renewed its lease, or another replica was faster. A judge may repeat the call, for example
        after an unknown outcome: the ledger stays as it is until the judge writes its own part and ends the judgement.
        """

    async def end_judgement(self, peer: Peer) -> None:
        """Close the row of a replica that this one has judged, and drop the rest of its part of the ledger.

        Do nothing if the end of this replica is judged as well.
        """

    def crash_marker_of(self, peer: Peer) -> Path | None:
        """Return the crash marker that a replica on this machine has left; None if there is none."""

    async def moving(self, replica_id: str, *, after_key: int, limit: int) -> list[int]:
        """Return, in ascending order, the keys of a replica's workflows in PENDING, RUNNING or CANCELLING."""

    async def orphaned(self, until: int) -> list[str]:
        """Return the ids of replicas that are not open and have a workflow in progress, or due at ``until``."""

    async def orphaned_stopped(self, reasons: Sequence[int]) -> list[str]:
        """Return the ids of replicas that are not open and have a workflow that waits for one of these reasons."""

    async def claim_moving(self, replica_ids: Sequence[str], *, limit: int) -> Mapping[int, Claimed]:
        """Claim workflows in PENDING, RUNNING or CANCELLING of replicas that are gone.

        Return what was claimed, by key. A row that another transaction has locked is left out.
        """

    async def claim_due(self, replica_ids: Sequence[str], until: int, *, limit: int) -> Mapping[int, Claimed]:
        """Claim workflows that are due at ``until``, as `claim_moving` does."""

    async def claim_stopped(
        self, replica_ids: Sequence[str], reasons: Sequence[int], *, limit: int
    ) -> Mapping[int, Claimed]:
        """Claim workflows that wait for one of these reasons, as `claim_moving` does."""

    async def claim_keys(self, keys: Sequence[int]) -> Mapping[int, Claimed]:
        """Claim those of these workflows that are open and whose replica is gone, as `claim_moving` does."""

    async def release(self, keys: Sequence[int]) -> None:
        """Give up workflows of this replica, so that any replica may claim them."""

    async def release_stopped(self, reasons: Sequence[int]) -> None:
        """Give up the workflows of this replica that wait for one of these reasons, as `release_unfit` does."""

    async def release_unfit(self, key: int) -> None:
        """Give up a workflow that the code of this build cannot continue, and note that.

        A claim of a replica of this build leaves it out, as long as a replica of a build without such a note lives.
        """

    async def unfit_builds(self, key: int) -> frozenset[str]:
        """Return the builds that have noted that they cannot continue a workflow."""

    async def waiting_messages(self, until: int, *, limit: int) -> Mapping[int, str]:
        """Return the replica ids of the workflows with a message that has waited since ``until``, by key."""

    async def rows(self, keys: Sequence[int]) -> Mapping[int, Row]:
        """Return the rows of the workflows that exist, by key."""

    def listen(self, heard: Callable[[str], None]) -> None:
        """Call ``heard`` with each notice that another replica posts, as far as the database delivers it."""

    def post(self, notice: str) -> None:
        """Post a notice to the other replicas, at some time soon. It may get lost."""
