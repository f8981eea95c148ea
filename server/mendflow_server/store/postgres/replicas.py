"""What several replicas of one store need: see `ReplicaStore`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.columns import row_of, suspect_of
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.replicas import Claimed, Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from mendflow_server.store.postgres.bulletin import Bulletin
    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.postgres.marker import CrashMarkers
    from mendflow_server.store.postgres.membership import Membership
    from mendflow_server.store.postgres.sessions import WritingSession
    from mendflow_server.store.records import Row, Suspect

    Work = Callable[[Connection], Awaitable[Any]]

#: The statements that claim workflows, by the way to choose them.
CLAIMS: Final = {
    name: QUERIES["claim"].replace("{chosen}", QUERIES[f"chosen_{name}"].replace("{fits}", QUERIES["fits"]))
    for name in ("moving", "due", "stopped", "keys")
}


class PostgresReplicas:
    """A `ReplicaStore`. ``writing`` is the session that writes; ``write`` and ``read`` give work to sessions."""

    def __init__(
        self,
        membership: Membership,
        bulletin: Bulletin,
        markers: CrashMarkers,
        writing: WritingSession,
        build: str,
        write: Callable[[Work], Awaitable[Any]],
        read: Callable[[Work], Awaitable[Any]],
    ) -> None:
        self._markers = markers
        self._writing = writing
        self._build = build
        self._membership = membership
        self._bulletin = bulletin
        self._write = write
        self._read = read
        #: The replica id of this process's newest life; empty before the first.
        self.replica_id = ""

    @property
    def lock_kept_since(self) -> float:
        """See `ReplicaStore.lock_kept_since`."""
        return self._membership.since

    @property
    def unknown_writes(self) -> int:
        """See `ReplicaStore.unknown_writes`."""
        return self._writing.unknown

    async def database_time(self) -> int:
        """See `ReplicaStore.database_time`."""
        found: int = await self._read(lambda connection: connection.fetchval(QUERIES["database_time"]))
        return found

    async def peers(self) -> list[Peer]:
        """See `ReplicaStore.peers`."""
        found = await self._read(lambda connection: connection.fetch(QUERIES["peers"], self._membership.schema))
        return [Peer(*columns) for columns in found]

    async def begin_judgement(self, peer: Peer) -> list[Suspect] | None:
        """See `ReplicaStore.begin_judgement`."""
        found: list[Suspect] | None = await self._write(partial(_begin_judgement, peer=peer, judge=self.replica_id))
        return found

    async def end_judgement(self, peer: Peer) -> None:
        """See `ReplicaStore.end_judgement`."""
        await self._execute("end_judgement", peer.number, self.replica_id)
        self._markers.remove(peer.number)

    def crash_marker_of(self, peer: Peer) -> Path | None:
        """See `ReplicaStore.crash_marker_of`."""
        return self._markers.left_by(peer.number, peer.replica_id)

    async def moving(self, replica_id: str, *, after_key: int, limit: int) -> list[int]:
        """See `ReplicaStore.moving`."""
        found = await self._read(lambda each: each.fetch(QUERIES["moving"], replica_id, after_key, limit))
        return [key for (key,) in found]

    async def orphaned(self, until: int) -> list[str]:
        """See `ReplicaStore.orphaned`."""
        return [name for (name,) in await self._read(lambda each: each.fetch(QUERIES["orphaned"], until))]

    async def orphaned_stopped(self, reasons: Sequence[int]) -> list[str]:
        """See `ReplicaStore.orphaned_stopped`."""
        return [
            name for (name,) in await self._read(lambda each: each.fetch(QUERIES["orphaned_stopped"], list(reasons)))
        ]

    async def claim_moving(self, replica_ids: Sequence[str], *, limit: int) -> Mapping[int, Claimed]:
        """See `ReplicaStore.claim_moving`."""
        return await self._claim("moving", list(replica_ids), limit, self._build)

    async def claim_due(self, replica_ids: Sequence[str], until: int, *, limit: int) -> Mapping[int, Claimed]:
        """See `ReplicaStore.claim_due`."""
        return await self._claim("due", list(replica_ids), limit, self._build, until)

    async def claim_stopped(
        self, replica_ids: Sequence[str], reasons: Sequence[int], *, limit: int
    ) -> Mapping[int, Claimed]:
        """See `ReplicaStore.claim_stopped`."""
        return await self._claim("stopped", list(replica_ids), limit, self._build, list(reasons))

    async def claim_keys(self, keys: Sequence[int]) -> Mapping[int, Claimed]:
        """See `ReplicaStore.claim_keys`."""
        return await self._claim("keys", list(keys), len(keys))

    async def release(self, keys: Sequence[int]) -> None:
        """See `ReplicaStore.release`."""
        await self._execute("release", self.replica_id, list(keys))

    async def release_stopped(self, reasons: Sequence[int]) -> None:
        """See `ReplicaStore.release_stopped`."""
        await self._execute("release_stopped", self.replica_id, list(reasons), self._build)

    async def release_unfit(self, key: int) -> None:
        """See `ReplicaStore.release_unfit`."""
        await self._execute("release_unfit", key, self.replica_id, self._build)

    async def unfit_builds(self, key: int) -> frozenset[str]:
        """See `ReplicaStore.unfit_builds`."""
        return frozenset(build for (build,) in await self._read(lambda each: each.fetch(QUERIES["unfit_builds"], key)))

    async def waiting_messages(self, until: int, *, limit: int) -> Mapping[int, str]:
        """See `ReplicaStore.waiting_messages`."""
        return dict(await self._read(lambda each: each.fetch(QUERIES["waiting_messages"], until, limit)))

    async def rows(self, keys: Sequence[int]) -> Mapping[int, Row]:
        """See `ReplicaStore.rows`."""
        found = await self._read(lambda each: each.fetch(QUERIES["load_rows"], list(keys)))
        return {row.key: row for row in map(row_of, found)}

    def listen(self, heard: Callable[[str], None]) -> None:
        """See `ReplicaStore.listen`."""
        self._bulletin.listen(heard)

    def post(self, notice: str) -> None:
        """See `ReplicaStore.post`."""
        self._bulletin.post(notice)

    async def _claim(self, way: str, *values: Any) -> Mapping[int, Claimed]:
        """Claim workflows. A claim of unknown outcome may be repeated: what it has claimed is this replica's."""
        found = await self._write(lambda each: each.fetch(CLAIMS[way], self.replica_id, *values))
        return {key: Claimed(*columns) for key, *columns in found}

    async def _execute(self, name: str, *values: Any) -> None:
        await self._write(lambda connection: connection.execute(QUERIES[name], *values))


async def _begin_judgement(connection: Connection, peer: Peer, judge: str) -> list[Suspect] | None:
    async with connection.transaction():
        done = await connection.execute(QUERIES["begin_judgement"], peer.number, judge, peer.judge, peer.lease_end)
        if done != "UPDATE 1":
            return None
        found = await connection.fetch(QUERIES["suspects"], peer.replica_id)
        return [suspect_of(columns) for columns in found]
