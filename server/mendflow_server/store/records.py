"""The values that a store accepts and returns.

Times are integer microseconds since the epoch, UTC. States and reasons are the numbers of
``mendflow.v1.WorkflowState`` and ``StateReason``. Events are the bytes of ``mendflow.v1.Event``; a store does not
parse them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The smallest number of a final state; see `mendflow.v1.WorkflowState`.
FIRST_FINAL_STATE: Final = 7


@dataclass(slots=True)
class Row:
    """A workflow's row. ``key`` is 0 until the store assigns one."""

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
    #: An operator keeps the workflow from being purged. Drivers never write it.
    held: bool = False

    def advanced(
        self,
        state: int,
        reason: int,
        explanation: str,
        last_sequence: int,
        wake_time: int | None,
        end_time: int | None,
        untaken_signals: int,
    ) -> Row:
        """Return the row after more events."""
        # By position: keyword arguments take three times as long, and each change of each workflow makes a row.
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
            self.held,
        )


class Guard(NamedTuple):
    """The head that a driver read. The store updates the row only while the row still has these values."""

    generation: int
    last_sequence: int


@dataclass(slots=True, frozen=True)
class Alert:
    """A row in ``alerts``. The AlertRaised event of the same change has the same content."""

    time: int
    name: str
    severity: int
    message: str


@dataclass(slots=True, frozen=True)
class Heartbeat:
    """The latest details of an open attempt. They replace the previous ones of the same step."""

    step_key: str
    attempt: int
    details: bytes


@dataclass(slots=True)
class Change:
    """One workflow's part of a batch.

    ``row`` is the row after the change; ``guard`` is None for a new workflow.
    ``events`` are pairs (sequence, bytes) that follow the guard's last sequence
    without a gap. ``consumed`` has the ids of the messages that the events record;
    the store deletes them from the inbox. With ``final`` the workflow ends, and the
    store deletes its heartbeats. It rejects a final change as
    `CommitOutcome.INBOX_NOT_EMPTY` while the inbox has a message that is not in
    ``consumed``.
    """

    row: Row
    guard: Guard | None
    events: list[tuple[int, bytes]]
    consumed: tuple[int, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    alerts: tuple[Alert, ...] = ()
    final: bool = False


class InboxKind(enum.IntEnum):
    """The kind of a message in the inbox."""

    SIGNAL = 1
    CANCEL = 2
    RESUME = 3
    TERMINATE = 4


@dataclass(slots=True, frozen=True)
class Message:
    """A message for a workflow's driver. ``id`` is 0 until it is stored; ids increase in the order of commits.

    ``content`` is opaque to the store. As long as the workflow exists, a second
    message with the same ``request_id`` is a `CommitOutcome.DUPLICATE`.
    """

    id: int
    workflow_id: str
    kind: InboxKind
    request_id: str
    time: int
    content: bytes

    def stored_as(self, message_id: int) -> Message:
        """Return the message with the id that the store gave it."""
        return Message(message_id, self.workflow_id, self.kind, self.request_id, self.time, self.content)


class CommitOutcome(enum.Enum):
    """The outcome of a change or a message."""

    COMMITTED = "committed"
    #: A change: the row no longer matches the guard, because another driver has the workflow.
    CONFLICT = "conflict"
    #: A new workflow: a workflow with this id exists.
    ID_EXISTS = "id_exists"
    #: A final change: the inbox has messages that the change does not consume.
    INBOX_NOT_EMPTY = "inbox_not_empty"
    #: A message: its request_id is known; nothing was added.
    DUPLICATE = "duplicate"
    #: A message: the workflow does not exist.
    NOT_FOUND = "not_found"
    #: A message: the workflow is in a final state.
    WORKFLOW_ENDED = "workflow_ended"
    #: A change or a message: its part of the file is damaged. Set by the committer, never by a store.
    DAMAGED = "damaged"
    #: A signal: ``untaken_signals`` plus the signals in the inbox have reached the limit.
    INBOX_FULL = "inbox_full"


@dataclass(slots=True)
class Batch:
    """The changes and messages of one transaction, with at most one change per workflow.

    Changes are applied before messages. A rejected part does not affect the others.
    """

    changes: list[Change] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def set_keys(self, keys: Sequence[int], outcomes: Sequence[CommitOutcome]) -> None:
        """Set the keys of the new workflows that are committed now. A row without a key is not in the store."""
        for change, key, outcome in zip(self.changes, keys, outcomes, strict=True):
            if change.guard is None and outcome is CommitOutcome.COMMITTED:
                change.row.key = key


@dataclass(slots=True)
class BatchResult:
    """The outcome of each change and message, in their order.

    The store has set the keys of new workflows in the rows of their changes.
    ``message_keys`` has the key of each message's workflow (0: not found),
    ``message_ids`` the id assigned to the message (0: not added).
    """

    changes: list[CommitOutcome]
    messages: list[CommitOutcome]
    message_keys: list[int]
    message_ids: list[int]


class PurgeOutcome(enum.Enum):
    """The outcome of a request to purge one workflow."""

    PURGED = "purged"
    #: No workflow has this id, or it has another uid.
    NOT_FOUND = "not_found"
    #: The workflow has not ended.
    OPEN = "open"
    #: An operator holds the workflow.
    HELD = "held"


class PurgeResult(NamedTuple):
    """The outcome for one workflow, with its state; 0 if it was not found."""

    outcome: PurgeOutcome
    state: int


class StoredSnapshot(NamedTuple):
    """A workflow's row with its first and, in a final state, its last event, as they are stored."""

    row: Row
    first: bytes | None
    last: bytes | None


@dataclass(slots=True)
class Loaded:
    """Everything needed to drive a workflow."""

    row: Row
    events: list[bytes]
    inbox: list[Message]
    heartbeats: list[Heartbeat]


@dataclass(slots=True, frozen=True)
class Filter:
    """The conditions of a list; all must hold. An empty condition matches every workflow."""

    workflow_type: str = ""
    states: tuple[int, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    create_time_from: int | None = None
    create_time_until: int | None = None


@dataclass(slots=True, frozen=True)
class Cursor:
    """The position after the last row of a page. Pages are ordered by (create_time, key), newest first."""

    create_time: int
    key: int


@dataclass(slots=True)
class Page:
    """The rows of a page and the start of the next one; ``next`` is None on the last page."""

    rows: list[Row]
    next: Cursor | None


@dataclass(slots=True, frozen=True)
class Life:
    """A server process, from start to end, as recorded in its row in ``replicas``."""

    replica_id: str
    start_time: int
    #: The time of the last beat.
    beat_time: int
    #: The process recorded its drain, so it was not its work that ended it.
    drained: bool


@dataclass(slots=True, frozen=True)
class Suspect:
    """A row of the crash budget's ledger. ``step_key`` is empty for workflow code itself."""

    key: int
    step_key: str
    #: The evidence against it from crashes in a row (`crash_budget`).
    evidence: int
    #: Crashes at which it was the only one that could be blamed.
    alone: int
    #: Kept back until its turn.
    held: bool
