"""The store as the engine sees it: sessions do the work one after the other, and a future returns each result."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.damage import Damage
from mendflow_server.store.errors import not_open, opened_already
from mendflow_server.store.postgres import failures, migrate, purging, reader, writer
from mendflow_server.store.postgres.bulletin import Bulletin
from mendflow_server.store.postgres.connection import Connector
from mendflow_server.store.postgres.encoder import EncodedChanges
from mendflow_server.store.postgres.failures import FAILURES
from mendflow_server.store.postgres.lanes import Lanes
from mendflow_server.store.postgres.listing import read_page
from mendflow_server.store.postgres.marker import CrashMarkers
from mendflow_server.store.postgres.membership import Membership
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.replicas import PostgresReplicas
from mendflow_server.store.postgres.sessions import ReadingSession, WritingSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import (
        Batch,
        BatchResult,
        Cursor,
        Filter,
        Guard,
        Life,
        Loaded,
        Message,
        Page,
        PurgeResult,
        Row,
        StoredSnapshot,
        Suspect,
    )

_T = TypeVar("_T")

#: The number of keys in a block. The sequence in ``migrations/0001.sql`` advances by it.
_BLOCK: Final = 1_000


class PostgresStore:
    """A `Store` in a schema of a PostgreSQL database, for any number of replicas.

    Cancelling a caller does not cancel its work; the caller only loses the result. A change or message that violates
    the schema raises a plain `StoreError`, and nothing of its batch is written.
    """

    def __init__(
        self,
        url: str,
        *,
        signal_limit: int = 1_000,
        lease: float = 10.0,
        build: str = "",
        access: DatabaseAccess | None = None,
    ) -> None:
        access = access or DatabaseAccess()
        self._connector = Connector(url, access)
        self._reading_connections = access.reading_connections
        self._place = self._connector.place
        self._signal_limit = signal_limit
        self._damage = Damage()
        self._membership = Membership(self._connector)
        self._writing = WritingSession(self._connector, self._membership, self._damage)
        self._writer: Lanes | None = None
        self._readers: Lanes | None = None
        self._closing: asyncio.Task[None] | None = None
        self._markers = CrashMarkers(self._place)
        self._lease = round(lease * 1e6)
        self._build = build
        #: Whether a new life has its number, but is not recorded yet.
        self._renumbered = False
        self._bulletin = Bulletin(self._connector)
        self.replicas = PostgresReplicas(
            self._membership, self._bulletin, self._markers, self._writing, build, self._write, self._read
        )
        #: The keys of the block that are not used yet.
        self._keys: range = range(0)
        #: The connection that the block was taken on.
        self._keys_of: Connection | None = None

    @property
    def damage(self) -> str:
        """See `Store.damage`."""
        return self._damage.found

    @property
    def crash_marker_path(self) -> Path | None:
        """See `Store.crash_marker_path`. The marker is among the temporary files of this machine."""
        return self._markers.path(self._membership.writer)

    def connections(self) -> Sequence[int]:
        """See `Store.connections`. A child that has one would hold the lock after the server's end."""
        return self._connector.descriptors()

    async def open(self) -> None:
        """See `Store.open`. The lock is a session advisory lock on the schema, shared with other replicas."""
        if self._writer is not None or self._closing is not None:
            raise opened_already(self._place)
        try:
            connection = await self._membership.join()
            try:
                await migrate.prepare(connection, self._place)
                peers = await connection.fetch(QUERIES["peers"], self._membership.schema)
            except FAILURES as error:
                raise failures.translate_at_open(error, self._place) from error
            self._markers.open({peer["id"] for peer in peers})
            await self._membership.take_number()
            self._membership.keep()
            self._writer = Lanes([self._writing])
            readers = range(self._reading_connections)
            self._readers = Lanes([ReadingSession(self._connector, self._membership, self._damage) for _ in readers])
            await self._write(self._writing.settle)
            self._bulletin.open(self._membership.schema)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish the queued work and release the store."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for lanes in (self._readers, self._writer):
            if lanes is not None:
                await lanes.stop()
        await self._bulletin.close()
        await self._membership.leave()

    async def commit(self, batch: Batch) -> BatchResult:
        """See `Store.commit`."""
        return await self._write(partial(self._commit, batch=batch))

    async def _commit(self, connection: Connection, batch: Batch) -> BatchResult:
        # The lane is entered before a block of keys is asked for: commits keep their order.
        encoded = EncodedChanges()
        keys: list[int] = []
        for change in batch.changes:
            key = change.row.key
            if change.guard is None:
                if not self._keys or connection is not self._keys_of:
                    await self._take_keys(connection)
                # A change that is rejected leaves a gap in the keys, which is harmless.
                key, self._keys = self._keys[0], self._keys[1:]
            keys.append(key)
            encoded.add(change, key)
        return await writer.commit(connection, batch, keys, encoded, self._signal_limit)

    async def _take_keys(self, connection: Connection) -> None:
        """Take a block of keys that is beyond the last one.

        A promoted standby may not have received how far the sequence was. So a block belongs to a connection, and keys
        that this server has given to workflows, which may be lost now and still in its memory, are not given again.
        """
        beyond = self._keys.stop
        first: int = await connection.fetchval(QUERIES["next_keys"])
        while first < beyond:
            first = await connection.fetchval(QUERIES["next_keys"])
        self._keys, self._keys_of = range(first, first + _BLOCK), connection

    async def heads(self, keys: Sequence[int]) -> Mapping[int, Guard]:
        """See `Store.heads`."""
        await self._settle()
        return await self._read(partial(reader.heads, keys=keys))

    async def find(self, workflow_ids: Sequence[str]) -> Mapping[str, Row]:
        """See `Store.find`."""
        await self._settle()
        return await self._read(partial(reader.find, workflow_ids=workflow_ids))

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """See `Store.load`."""
        await self._settle()
        return await self._read(partial(reader.load, keys=keys))

    async def snapshot(self, workflow_id: str) -> StoredSnapshot | None:
        """See `Store.snapshot`."""
        return await self._read(partial(reader.snapshot, workflow_id=workflow_id))

    async def read_inbox(self, key: int) -> list[Message]:
        """See `Store.read_inbox`."""
        return await self._read(partial(reader.read_inbox, key=key))

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """See `Store.read_events`."""
        return await self._read(
            partial(reader.read_events, key=key, after=after_sequence, limit=limit, max_bytes=max_bytes)
        )

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """See `Store.list_workflows`."""
        return await self._read(partial(read_page, condition=condition, limit=limit, after=after))

    async def due(self, until: int, *, limit: int) -> list[tuple[int, int]]:
        """See `Store.due`."""
        return await self._read(partial(reader.due, replica_id=self.replicas.replica_id, until=until, limit=limit))

    async def in_progress(self, *, after_key: int, limit: int) -> list[int]:
        """See `Store.in_progress`."""
        return await self._read(
            partial(reader.in_progress, replica_id=self.replicas.replica_id, after_key=after_key, limit=limit)
        )

    async def stopped_for(self, reason: int, *, after_key: int, limit: int) -> list[int]:
        """See `Store.stopped_for`."""
        return await self._read(
            partial(
                reader.stopped_for,
                replica_id=self.replicas.replica_id,
                reason=reason,
                after_key=after_key,
                limit=limit,
            )
        )

    async def last_beat(self) -> int:
        """See `Store.last_beat`."""
        return await self._read(reader.last_beat)

    async def begin_life(self, life: Life) -> Life | None:
        """See `Store.begin_life`. A process that begins another life is another replica from then on."""
        earlier = self.replicas.replica_id
        if earlier and earlier != life.replica_id and not self._renumbered:
            await self._membership.take_number()
            self._renumbered = True
        previous = await self._write(
            partial(
                writer.begin_life,
                life=life,
                earlier=earlier,
                number=self._membership.number,
                build=self._build,
                lease=self._lease,
            )
        )
        self.replicas.replica_id = life.replica_id
        self._renumbered = False
        return previous

    async def beat(self, replica_id: str, time: int, *, drained: bool = False, load: int = 0) -> None:
        """See `Store.beat`. A later beat does not clear ``drained``."""
        await self._write(
            partial(
                writer.beat,
                replica_id=replica_id,
                time=time,
                drained=drained,
                load=load,
                lease=self._lease,
                place=self._place,
            )
        )

    async def suspects(self) -> list[Suspect]:
        """See `Store.suspects`."""
        return await self._read(partial(reader.suspects, replica_id=self.replicas.replica_id))

    async def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """See `Store.write_suspects`."""
        await self._write(partial(writer.write_suspects, suspects=suspects, replica_id=self.replicas.replica_id))

    async def set_held(self, workflow_id: str, *, held: bool) -> Row | None:
        """See `Store.set_held`."""
        return await self._write(partial(writer.set_held, workflow_id=workflow_id, held=held))

    async def first_ended(self) -> Mapping[str, int]:
        """See `Store.first_ended`."""
        return await self._read(reader.first_ended)

    async def purge_ended(self, workflow_type: str, until: int, *, limit: int) -> int:
        """See `Store.purge_ended`."""
        return await self._write(partial(purging.purge_ended, workflow_type=workflow_type, until=until, limit=limit))

    async def purge(self, workflow_id: str, *, uid: str = "") -> PurgeResult:
        """See `Store.purge`."""
        return await self._write(partial(purging.purge, workflow_id=workflow_id, uid=uid))

    async def reclaim(self) -> bool:
        """See `Store.reclaim`."""
        return await self._write(purging.reclaim)

    async def _settle(self) -> None:
        """Wait until no commit of an unknown outcome is on its way, so that what is read now stays so."""
        if self._writing.unsettled:
            await self._write(self._writing.settle)

    def _write(self, work: Callable[[Connection], Awaitable[_T]]) -> asyncio.Future[_T]:
        if self._writer is None or self._closing is not None:
            raise not_open(self._place)
        return self._writer.submit(work)

    def _read(self, work: Callable[[Connection], Awaitable[_T]]) -> asyncio.Future[_T]:
        if self._readers is None or self._closing is not None:
            raise not_open(self._place)
        return self._readers.submit(work)
