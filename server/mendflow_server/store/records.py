"""The values that go into a store and come out of it.

Times are integer microseconds since the epoch, UTC. States and reasons are the numbers of
``mendflow.v1.WorkflowState`` and ``StateReason``. Events are the bytes of ``mendflow.v1.Event``; a store does not
parse them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple


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
    without a gap. ``consumed`` are the ids of the messages that the events have taken in.
    With ``final`` the workflow ends: the change is refused as `CommitOutcome.INBOX_NOT_EMPTY`
    while the inbox still holds anything beyond ``consumed``, its heartbeats go.
    """

    row: Row
    guard: Guard | None
    events: list[tuple[int, bytes]]
    consumed: tuple[int, ...] = ()
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
    before for the same workflow is `CommitOutcome.DUPLICATE`, for as long as the
    workflow exists.
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
    """What became of a change or a message."""

    COMMITTED = "committed"
    #: A change: the row no longer holds the guard; another driver has it.
    CONFLICT = "conflict"
    #: A new workflow: the id is taken.
    ID_EXISTS = "id_exists"
    #: A final change: the inbox holds more than was taken.
    INBOX_NOT_EMPTY = "inbox_not_empty"
    #: A message: the request_id was seen before; nothing was added.
    DUPLICATE = "duplicate"
    #: A message: there is no such workflow.
    NOT_FOUND = "not_found"
    #: A message: the workflow is in a final state.
    WORKFLOW_ENDED = "workflow_ended"
    #: A change or a message: it cannot be written where the file is damaged. The committer's, never a store's.
    DAMAGED = "damaged"
    #: A signal: ``untaken_signals`` plus the signals in the inbox are at the limit.
    INBOX_FULL = "inbox_full"


@dataclass(slots=True)
class Batch:
    """What is committed in one transaction: at most one change for a workflow.

    Changes are applied before messages. One refusal leaves the others alone.
    """

    changes: list[Change] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class BatchResult:
    """A outcome for each change and message, in their order.

    The keys of new workflows are set in their changes' rows by then.
    ``message_keys`` has the workflow's row key for each message (0: missing),
    ``message_ids`` the id given to it (0: not added).
    """

    changes: list[CommitOutcome]
    messages: list[CommitOutcome]
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
    #: Crashes in a row at which it was in flight.
    crashes: int
    #: Crashes at which it was the only one that could be blamed.
    alone: int
    #: Kept back until its turn.
    held: bool
