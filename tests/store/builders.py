"""Builders of rows, changes and messages for the tests of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow_server.store.records import (
    Alert,
    Batch,
    Change,
    CommitOutcome,
    Guard,
    Heartbeat,
    InboxKind,
    Life,
    Message,
    Row,
    Suspect,
)

if TYPE_CHECKING:
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import BatchResult

#: The replica that drives the workflows of the builders.
REPLICA = "replica-a"
RUNNING, WAITING, PAUSED, CANCELLING, SUCCEEDED = 2, 3, 4, 6, 7


async def begin(store: Store) -> None:
    """Begin the life of the replica that drives the workflows. A store may return only its open workflows."""
    await store.begin_life(Life(REPLICA, 1, 1, drained=False))


def make_row(workflow_id: str = "order-1", **fields: Any) -> Row:
    values: dict[str, Any] = {
        "key": 0,
        "uid": "0123456789abcdef0123456789abcdef",
        "workflow_type": "checkout",
        "state": RUNNING,
        "reason": 0,
        "explanation": "",
        "generation": 1,
        "replica_id": REPLICA,
        "last_sequence": 0,
        "wake_time": None,
        "create_time": 1_000,
        "end_time": None,
        "untaken_signals": 0,
        "trace_id": "f" * 32,
        "labels": {},
    }
    return Row(workflow_id=workflow_id, **{**values, **fields})


def new(row: Row, *events: bytes, **fields: Any) -> Change:
    """Return the change that starts a workflow with these events."""
    row.last_sequence = len(events)
    return Change(row, None, list(enumerate(events, start=1)), **fields)


def follow(row: Row, *events: bytes, fields: dict[str, Any] | None = None, **parts: Any) -> Change:
    """Return the next change of a stored row, and advance the row object as its driver does."""
    guard = Guard(row.generation, row.last_sequence)
    for name, value in (fields or {}).items():
        setattr(row, name, value)
    row.last_sequence = guard.last_sequence + len(events)
    return Change(row, guard, list(enumerate(events, start=guard.last_sequence + 1)), **parts)


def end(row: Row, *events: bytes, **parts: Any) -> Change:
    """Return the last change of a row."""
    fields = {"state": SUCCEEDED, "end_time": 9_000, "wake_time": None}
    return follow(row, *(events or (b"end",)), fields=fields, final=True, **parts)


def signal(workflow_id: str = "order-1", request_id: str = "", content: bytes = b"paid") -> Message:
    return Message(0, workflow_id, InboxKind.SIGNAL, request_id, 5_000, content)


def cancel(workflow_id: str = "order-1") -> Message:
    return Message(0, workflow_id, InboxKind.CANCEL, "", 5_000, b"")


async def commit(store: Store, *changes: Change, messages: tuple[Message, ...] = ()) -> BatchResult:
    return await store.commit(Batch(list(changes), list(messages)))


async def start(store: Store, workflow_id: str = "order-1", *events: bytes, **fields: Any) -> Row:
    """Commit a new workflow, and return its row."""
    row = make_row(workflow_id, **fields)
    result = await commit(store, new(row, *(events or (b"one", b"two"))))
    assert result.changes == [CommitOutcome.COMMITTED]
    return row


async def send(store: Store, *messages: Message) -> list[CommitOutcome]:
    return (await commit(store, messages=messages)).messages


async def everything(store: Store, workflow_id: str, label: str = "a") -> Row:
    """Commit a workflow that has rows in every table, and its end."""
    row = await start(store, workflow_id, labels={"team": label, "tier": "gold"})
    await send(store, signal(workflow_id, "r1"))
    (message,) = await store.read_inbox(row.key)
    beat, alert = Heartbeat("charge", 1, b"half"), Alert(1, "history_near_limit", 1, "long")
    await commit(store, follow(row, b"three", consumed=(message.id,), heartbeats=(beat,), alerts=(alert,)))
    await store.write_suspects([Suspect(row.key, "charge", 1, 0, held=False)])
    await commit(store, end(row))
    return row
