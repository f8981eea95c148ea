"""The contract of a store.

Each method is one transaction. Times are integer microseconds since the epoch,
UTC. States and reasons are the numbers of ``mendflow.v1.WorkflowState`` and
``StateReason``. Events are the bytes of ``mendflow.v1.Event``; a store never
parses them.

A method raises `StoreUnavailable` when it failed and changed nothing. It raises
`CommitUnknown` when the store cannot determine whether it committed; the
committer then reads the outcome of a batch from `Store.heads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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
    from mendflow_server.store.replicas import ReplicaStore


class Store(Protocol):
    """A durable store. All methods except `open` and `close` may be called concurrently from many tasks."""

    @property
    def damage(self) -> str:
        """The damage found since `open`, and what to do about it. Empty if none was found."""

    @property
    def crash_marker_path(self) -> Path | None:
        """The path of the server's crash marker; None if this kind of store has no place for one."""

    @property
    def replicas(self) -> ReplicaStore | None:
        """What several replicas of this store need; None if only one server can use it."""

    def connections(self) -> Sequence[int]:
        """Return the descriptors of the store's connections, which a forked child must not keep; none for files."""

    async def open(self) -> None:
        """Lock the store for this process, or for its replicas, and migrate its schema to the newest version.

        Raise `StoreRefused` if another process needs the store for itself, or if the store is
        on a network file system, is not a database, is damaged, or was written by
        a newer version.
        """

    async def close(self) -> None:
        """Release the store. May be called twice."""

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit the batch and return the outcome of each part. On return the batch is durable."""

    async def heads(self, keys: Sequence[int]) -> Mapping[int, Guard]:
        """Return the generation and last sequence of each workflow that exists, by key."""

    async def find(self, workflow_ids: Sequence[str]) -> Mapping[str, Row]:
        """Return the rows of the workflows that exist, by workflow id."""

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """Return everything needed to drive these workflows, in the order of ``keys``. Omit missing ones."""

    async def snapshot(self, workflow_id: str) -> StoredSnapshot | None:
        """Return a workflow with its first and final event, all of one moment; None: there is no such workflow."""

    async def read_inbox(self, key: int) -> list[Message]:
        """Return the messages in a workflow's inbox, in the order of commits; none if there is no such workflow."""

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Return the events after a sequence, oldest first.

        Return at most ``limit`` events of at most ``max_bytes`` in total, but always the first one if there is any.
        """

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of workflows, newest first.

        The store examines at most 5,000 rows, so a page may be short or empty and still have a next page.
        """

    async def due(self, until: int, *, limit: int) -> list[tuple[int, int]]:
        """Return (wake_time, key) of the open workflows whose wake time is at or before ``until``, earliest first.

        Where several replicas can use the store, this and the next two methods return those of this one: of the replica
        that began its life last through this object.
        """

    async def in_progress(self, *, after_key: int, limit: int) -> list[int]:
        """Return, in ascending order, the keys greater than ``after_key`` of the workflows that need a driver.

        These are the workflows in PENDING, RUNNING or CANCELLING, and those with a message in the inbox.
        """

    async def stopped_for(self, reason: int, *, after_key: int, limit: int) -> list[int]:
        """Return, in ascending order, the keys greater than ``after_key`` of the open workflows with this reason."""

    async def last_beat(self) -> int:
        """Return the time of the last beat of the server process that started last; 0 if there was none."""

    async def begin_life(self, life: Life) -> Life | None:
        """Record this process and return the life of the previous one; None on a new store."""

    async def beat(self, replica_id: str, time: int, *, drained: bool = False, load: int = 0) -> None:
        """Record that this process is alive. The small write also proves that the store accepts writes.

        ``load`` is how many workflows it has in memory. Raise `ReplicaFenced` if another replica
        continues its workflows.
        """

    async def suspects(self) -> list[Suspect]:
        """Return the crash budget's ledger."""

    async def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """Replace the crash budget's ledger."""

    async def set_held(self, workflow_id: str, *, held: bool) -> Row | None:
        """Hold a workflow, or release it; return its row. None: there is no such workflow."""

    async def first_ended(self) -> Mapping[str, int]:
        """Return the earliest end of the workflows that `purge_ended` may purge, by type."""

    async def purge_ended(self, workflow_type: str, until: int, *, limit: int) -> int:
        """Purge workflows of a type that ended at or before ``until`` and are not held; return how many.

        From then on no method returns anything of them, and their ids can be used again. `reclaim` frees their space.
        Purge at most ``limit``, the one that ended first coming first.
        """

    async def purge(self, workflow_id: str, *, uid: str = "") -> PurgeResult:
        """Purge one workflow as `purge_ended` does, if it has ended and is not held.

        An empty ``uid`` matches any workflow.
        """

    async def reclaim(self) -> bool:
        """Free a bounded part of the space of purged workflows; return whether more is left.

        The portion is so small that it delays no commit noticeably.
        """
