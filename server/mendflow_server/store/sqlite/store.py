"""The store as the event loop sees it: a thread does the work, and one callback returns the result."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from mendflow_server.store.damage import Damage
from mendflow_server.store.errors import not_open, opened_already
from mendflow_server.store.sqlite.connection import WRITER_PRAGMAS
from mendflow_server.store.sqlite.encoder import EncodedChanges
from mendflow_server.store.sqlite.file_lock import FileLock
from mendflow_server.store.sqlite.filesystem import check_location, crash_marker_path, resolve
from mendflow_server.store.sqlite.listing import read_page
from mendflow_server.store.sqlite.reader import Reader
from mendflow_server.store.sqlite.threads import OwnerThreads
from mendflow_server.store.sqlite.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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

#: With two readers, a long list does not delay a load.
_READERS: Final = 2


class SqliteStore:
    """A `Store` in one SQLite file.

    Cancelling a caller does not cancel its work; the caller only loses the result. A change or message that violates
    the schema raises a plain `StoreError`, and nothing of its batch is written.
    """

    def __init__(
        self,
        path: Path,
        *,
        signal_limit: int = 1_000,
        mountinfo: Path = Path("/proc/self/mountinfo"),
        lock: Callable[[Path], FileLock] = FileLock,
        pragmas: Sequence[str] = WRITER_PRAGMAS,
    ) -> None:
        # Resolve the path now: a later change of the working directory or of a symlink must not move the store. SQLite
        # names the log after the file itself, and so are the lock file and the crash marker.
        self._path = resolve(path)
        self._signal_limit = signal_limit
        self._mountinfo = mountinfo
        self._lock = lock(self._path)
        self._pragmas = pragmas
        self._damage = Damage()
        self._writer: OwnerThreads[Writer] | None = None
        self._readers: OwnerThreads[Reader] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._next_key = 0

    @property
    def damage(self) -> str:
        """See `Store.damage`."""
        return self._damage.found

    @property
    def crash_marker_path(self) -> Path | None:
        """See `Store.crash_marker_path`. The marker is beside the database."""
        return crash_marker_path(self._path)

    @property
    def replicas(self) -> None:
        """See `Store.replicas`. A file is for one server."""

    def connections(self) -> Sequence[int]:
        """See `Store.connections`. `files_of` has the files."""
        return ()

    async def open(self) -> None:
        """See `Store.open`. The lock file is beside the database."""
        if self._writer is not None or self._closing is not None:
            raise opened_already(self._path)
        self._writer = OwnerThreads(
            "store-writer",
            lambda: Writer(self._path, self._signal_limit, self._damage, pragmas=self._pragmas),
        )
        try:
            self._next_key = await self._writer.submit(self._take)
        except BaseException:
            await self.close()
            raise
        self._readers = OwnerThreads("store-reader", lambda: Reader(self._path, self._damage), count=_READERS)

    def _take(self, writer: Writer) -> int:
        check_location(self._path, self._mountinfo)
        self._lock.take()
        return writer.open()

    async def close(self) -> None:
        """Finish the queued work and release the file."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # Close the readers first: the last connection to close copies the log into the file and removes it.
        if self._readers is not None:
            await self._readers.stop()
        if self._writer is not None:
            await self._writer.stop()
        self._lock.release()

    async def commit(self, batch: Batch) -> BatchResult:
        """See `Store.commit`."""
        encoded, keys = EncodedChanges(), []
        for change in batch.changes:
            key = change.row.key
            if change.guard is None:
                # A change that is rejected leaves a gap in the keys, which is harmless.
                key = self._next_key
                self._next_key += 1
            keys.append(key)
            encoded.add(change, key)
        return await self._write(lambda writer: writer.commit(batch, keys, encoded))

    async def heads(self, keys: Sequence[int]) -> Mapping[int, Guard]:
        """See `Store.heads`."""
        return await self._read(lambda reader: reader.heads(keys))

    async def find(self, workflow_ids: Sequence[str]) -> Mapping[str, Row]:
        """See `Store.find`."""
        return await self._read(lambda reader: reader.find(workflow_ids))

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """See `Store.load`."""
        return await self._read(lambda reader: reader.load(keys))

    async def snapshot(self, workflow_id: str) -> StoredSnapshot | None:
        """See `Store.snapshot`."""
        return await self._read(lambda reader: reader.snapshot(workflow_id))

    async def read_inbox(self, key: int) -> list[Message]:
        """See `Store.read_inbox`."""
        return await self._read(lambda reader: reader.read_inbox(key))

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """See `Store.read_events`."""
        return await self._read(lambda reader: reader.read_events(key, after_sequence, limit, max_bytes))

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """See `Store.list_workflows`."""
        return await self._read(
            lambda reader: reader.read(lambda connection: read_page(connection, condition, limit, after))
        )

    async def due(self, until: int, *, limit: int) -> list[tuple[int, int]]:
        """See `Store.due`."""
        return await self._read(lambda reader: reader.due(until, limit))

    async def in_progress(self, *, after_key: int, limit: int) -> list[int]:
        """See `Store.in_progress`."""
        return await self._read(lambda reader: reader.in_progress(after_key, limit))

    async def stopped_for(self, reason: int, *, after_key: int, limit: int) -> list[int]:
        """See `Store.stopped_for`."""
        return await self._read(lambda reader: reader.stopped_for(reason, after_key, limit))

    async def last_beat(self) -> int:
        """See `Store.last_beat`."""
        return await self._read(lambda reader: reader.last_beat())

    async def begin_life(self, life: Life) -> Life | None:
        """See `Store.begin_life`. The store keeps the last ten lives."""
        return await self._write(lambda writer: writer.begin_life(life))

    async def beat(self, replica_id: str, time: int, *, drained: bool = False, load: int = 0) -> None:  # noqa: ARG002
        """See `Store.beat`. A later beat does not clear ``drained``."""
        await self._write(lambda writer: writer.beat(replica_id, time, drained=drained))

    async def suspects(self) -> list[Suspect]:
        """See `Store.suspects`."""
        return await self._read(lambda reader: reader.suspects())

    async def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """See `Store.write_suspects`."""
        await self._write(lambda writer: writer.write_suspects(suspects))

    async def set_held(self, workflow_id: str, *, held: bool) -> Row | None:
        """See `Store.set_held`."""
        return await self._write(lambda writer: writer.set_held(workflow_id, held=held))

    async def first_ended(self) -> Mapping[str, int]:
        """See `Store.first_ended`."""
        return await self._read(lambda reader: reader.first_ended())

    async def purge_ended(self, workflow_type: str, until: int, *, limit: int) -> int:
        """See `Store.purge_ended`."""
        return await self._write(lambda writer: writer.purge_ended(workflow_type, until, limit))

    async def purge(self, workflow_id: str, *, uid: str = "") -> PurgeResult:
        """See `Store.purge`."""
        return await self._write(lambda writer: writer.purge(workflow_id, uid))

    async def reclaim(self) -> bool:
        """See `Store.reclaim`."""
        return await self._write(lambda writer: writer.reclaim())

    def _write(self, work: Callable[[Writer], _T]) -> asyncio.Future[_T]:
        if self._writer is None or self._closing is not None:
            raise not_open(self._path)
        return self._writer.submit(work)

    def _read(self, work: Callable[[Reader], _T]) -> asyncio.Future[_T]:
        if self._readers is None or self._closing is not None:
            raise not_open(self._path)
        return self._readers.submit(work)
