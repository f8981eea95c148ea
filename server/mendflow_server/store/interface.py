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

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class StoreError(Exception):
    """The root of a store's errors."""


class StoreUnavailable(StoreError):
    """The store could not do it; nothing was changed. It may work again later."""


class StoreDamaged(StoreUnavailable):
    """What was asked for lies where the store is damaged: trying again does not help. The rest may be whole."""


class CommitUnknown(StoreError):
    """The store cannot tell whether the batch was committed."""


class StoreRefused(StoreError):
    """The store cannot be opened, and waiting will not help. The message says what to do."""


@dataclass(slots=True)
class Row:
    """A workflow's row. ``key`` is 0 until the store has assigned it."""

    key: int
    workflow_id: str
    uid: str
    workflow_type: str
    state: int
    reason: int
    explanation: str
    generation: int
    replica_id: str
    last_sequence: int
    wake_time: int | None
    create_time: int
    end_time: int | None
    untaken_signals: int
    trace_id: str
    labels: dict[str, str]

    def moved_on(
        self,
        state: int,
        reason: int,
        explanation: str,
        last_sequence: int,
        wake_time: int | None,
        end_time: int | None,
        untaken_signals: int,
    ) -> Row:
        """Answer the row as it is after more events."""
        # By place: by name it takes three times as long, and each change of each workflow has one.
        return Row(
            self.key,
            self.workflow_id,
            self.uid,
            self.workflow_type,
            state,
            reason,
            explanation,
            self.generation,
            self.replica_id,
            last_sequence,
            wake_time,
            self.create_time,
            end_time,
            untaken_signals,
            self.trace_id,
            self.labels,
        )


class Guard(NamedTuple):
    """What the driver read: the row is written only while it still holds this."""

    generation: int
    last_sequence: int


@dataclass(slots=True, frozen=True)
class Alert:
    """A row in ``alerts``: the event AlertRaised beside it says the same."""

    time: int
    name: str
    severity: int
    message: str


@dataclass(slots=True, frozen=True)
class Heartbeat:
    """The latest details of an open attempt; replaces what was there for the step."""

    step_key: str
    attempt: int
    details: bytes


@dataclass(slots=True)
class Change:
    """One workflow's part of a batch.

    ``row`` is the row as it shall be; with ``guard`` None it is a new one.
    ``events`` are (sequence, bytes), following the guard's last sequence
    without a gap. ``taken`` are the inbox ids that the events have taken in.
    With ``final`` the workflow ends: the change is refused as `Verdict.INBOX`
    while the inbox still holds anything beyond ``taken``, its heartbeats go.
    """

    row: Row
    guard: Guard | None
    events: list[tuple[int, bytes]]
    taken: tuple[int, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    alerts: tuple[Alert, ...] = ()
    final: bool = False


class InboxKind(enum.IntEnum):
    """What lies in the inbox on its way to the driver."""

    SIGNAL = 1
    CANCEL = 2
    RESUME = 3
    TERMINATE = 4


@dataclass(slots=True, frozen=True)
class Message:
    """Something for a workflow's driver. ``id`` is 0 until stored; ids rise in the order of commits.

    ``content`` is opaque to the store. A message with a ``request_id`` seen
    before for the same workflow is `Verdict.DUPLICATE`, for as long as the
    workflow exists.
    """

    id: int
    workflow_id: str
    kind: InboxKind
    request_id: str
    time: int
    content: bytes


class Verdict(enum.Enum):
    """What became of a change or a message."""

    DONE = "done"
    #: A change: the row no longer holds the guard; another driver has it.
    LOST = "lost"
    #: A new workflow: the id is taken.
    TAKEN = "taken"
    #: A final change: the inbox holds more than was taken.
    INBOX = "inbox"
    #: A message: the request_id was seen before; nothing was added.
    DUPLICATE = "duplicate"
    #: A message: there is no such workflow.
    MISSING = "missing"
    #: A message: the workflow is in a final state.
    ENDED = "ended"
    #: A change or a message: it cannot be written where the file is damaged. The committer's, never a store's.
    DAMAGED = "damaged"
    #: A signal: ``untaken_signals`` plus the signals in the inbox are at the limit.
    FULL = "full"


@dataclass(slots=True)
class Batch:
    """What is committed in one transaction: at most one change for a workflow.

    Changes are applied before messages. One refusal leaves the others alone.
    """

    changes: list[Change] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class BatchResult:
    """A verdict for each change and message, in their order.

    The keys of new workflows are set in their changes' rows by then.
    ``message_keys`` has the workflow's row key for each message (0: missing),
    ``message_ids`` the id given to it (0: not added).
    """

    changes: list[Verdict]
    messages: list[Verdict]
    message_keys: list[int]
    message_ids: list[int]


@dataclass(slots=True)
class Loaded:
    """All that is needed to drive a workflow."""

    row: Row
    events: list[bytes]
    inbox: list[Message]
    heartbeats: list[Heartbeat]


@dataclass(slots=True, frozen=True)
class Filter:
    """Conditions of a list, all of which must hold. Empty means any."""

    workflow_type: str = ""
    states: tuple[int, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    create_time_from: int | None = None
    create_time_until: int | None = None


@dataclass(slots=True, frozen=True)
class Cursor:
    """The place after the last row of a page, in the order (create_time, key), newest first."""

    create_time: int
    key: int


@dataclass(slots=True)
class Page:
    """Rows, and where the next page begins; ``next`` is None on the last page."""

    rows: list[Row]
    next: Cursor | None


@dataclass(slots=True, frozen=True)
class Life:
    """A server process's life, as its row in ``replicas`` tells."""

    replica_id: str
    start_time: int
    #: The newest renewal.
    beat_time: int
    #: It recorded its drain: it did not die of its work.
    drained: bool


@dataclass(slots=True, frozen=True)
class Suspect:
    """A row of the crash budget's ledger. ``step_key`` is empty for workflow code itself."""

    key: int
    step_key: str
    #: Deaths in a row at which it was in flight.
    deaths: int
    #: Deaths at which it was the only one that could be blamed.
    alone: int
    #: Kept back until its turn.
    held: bool


class Store(Protocol):
    """The verbs. All but `open` and `close` may be called from many tasks at once."""

    @property
    def damage(self) -> str:
        """Answer what was found damaged since it was opened, and what to do; empty: nothing was."""

    @property
    def note(self) -> Path | None:
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

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Answer events after a sequence, oldest first: at most ``limit``, and at most
        ``max_bytes`` together, but always one if there is one."""

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Answer a page, newest first. Looks at no more than 5,000 rows, so a page may be
        short or empty and still have a next."""

    async def due(self, until: int, *, limit: int) -> list[tuple[int, int]]:
        """Answer (wake_time, key) of open workflows whose wake time is at or before
        ``until``, earliest first."""

    async def under_way(self, *, after_key: int, limit: int) -> list[int]:
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
