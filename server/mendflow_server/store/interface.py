"""What a store promises.

Every verb is one transaction. Times are integer microseconds since the epoch,
UTC. States and reasons are the numbers of ``mendflow.v1.WorkflowState`` and
``StateReason``. Events are the bytes of ``mendflow.v1.Event``; a store never
looks inside.

A store raises `StoreUnavailable` when it could not do what was asked and
nothing was changed, and `CommitUnknown` when it cannot tell whether a batch
was committed; the committer settles that by `heads`.
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
        Row,
        Suspect,
    )


class Store(Protocol):
    """The verbs. All but `open` and `close` may be called from many tasks at once."""

    @property
    def damage(self) -> str:
        """Answer what was found damaged since it was opened, and what to do; empty: nothing was."""

    @property
    def crash_marker_path(self) -> Path | None:
        """Return where the crash note of this store's server lies, None where there can be none."""

    async def open(self) -> None:
        """Take the store for this process alone, and bring its schema up to date.

        Raises `StoreRefused` when another server has it, when it lies on a
        network file system, is not a database, is damaged, or was written by
        a newer version.
        """

    async def close(self) -> None:
        """Release it. Safe to call twice."""

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit the batch; when this returns it is on disk."""

    async def heads(self, keys: Sequence[int]) -> Mapping[int, Guard]:
        """Answer generation and last sequence of each workflow that exists."""

    async def find(self, workflow_ids: Sequence[str]) -> Mapping[str, Row]:
        """Answer the rows of those ids that exist."""

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """Answer all that is needed to drive these, in the order of ``keys``; missing ones are left out."""

    async def read_inbox(self, key: int) -> list[Message]:
        """Return the messages in a workflow's inbox, in the order of commits; none if there is no such workflow."""

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Answer events after a sequence, oldest first: at most ``limit``, and at most
        ``max_bytes`` together, but always one if there is one."""

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Answer a page, newest first. Looks at no more than 5,000 rows, so a page may be
        short or empty and still have a next."""

    async def due(self, until: int, *, limit: int) -> list[tuple[int, int]]:
        """Answer (wake_time, key) of open workflows whose wake time is at or before
        ``until``, earliest first."""

    async def in_progress(self, *, after_key: int, limit: int) -> list[int]:
        """Answer the keys above ``after_key``, in their order, of all workflows in PENDING,
        RUNNING or CANCELLING, and of those for which something lies in the inbox."""

    async def stopped_for(self, reason: int, *, after_key: int, limit: int) -> list[int]:
        """Answer the keys above ``after_key``, in their order, of open workflows whose row has this reason."""

    async def last_beat(self) -> int:
        """Answer when the server process that began last was last alive, in microseconds; 0 if there was none."""

    async def begin_life(self, life: Life) -> Life | None:
        """Record this process and answer the life before it; None on a new store."""

    async def beat(self, replica_id: str, time: int, *, drained: bool = False) -> None:
        """Renew this process's row: a small write that proves the store."""

    async def suspects(self) -> list[Suspect]:
        """Answer the crash budget's ledger."""

    async def write_suspects(self, suspects: Sequence[Suspect]) -> None:
        """Replace the crash budget's ledger."""
