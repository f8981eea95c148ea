"""All reads except lists. Each sees one state of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.rows import COLUMNS, FIRST_FINAL_STATE, from_columns
from mendflow_server.store.records import Heartbeat, InboxKind, Loaded, Message, StoredSnapshot, Suspect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import Row

#: Workflows loaded in one transaction.
_LOADED_AT_ONCE: Final = 100
#: The most events, and the most bytes of events, read in one step.
EVENTS_AT_ONCE: Final = 1_000
BYTES_AT_ONCE: Final = 4_000_000


async def find(connection: Connection, workflow_ids: Sequence[str]) -> dict[str, Row]:
    """Return rows by workflow id."""
    rows = [from_columns(columns) for columns in await connection.fetch(QUERIES["find"], list(workflow_ids))]
    return {row.workflow_id: row for row in rows}


async def snapshot(connection: Connection, workflow_id: str) -> StoredSnapshot | None:
    """Return a workflow with its first and final event, or None if there is no such workflow."""
    found = await connection.fetchrow(QUERIES["snapshot"], workflow_id)
    if found is None:
        return None
    row = from_columns(found[: len(COLUMNS)])
    return StoredSnapshot(row, found["first"], found["last"] if row.state >= FIRST_FINAL_STATE else None)


async def load(connection: Connection, keys: Sequence[int]) -> list[Loaded]:
    """Return everything needed to drive these workflows."""
    loaded: list[Loaded] = []
    for start in range(0, len(keys), _LOADED_AT_ONCE):
        some = list(keys[start : start + _LOADED_AT_ONCE])
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = await _load(connection, some)
        loaded.extend(found[key] for key in some if key in found)
    return loaded


async def _load(connection: Connection, keys: list[int]) -> dict[int, Loaded]:
    loaded = {}
    for columns in await connection.fetch(QUERIES["load_rows"], keys):
        row = from_columns(columns)
        loaded[row.key] = Loaded(row, [], [], [])
    await _load_events(connection, loaded)
    for key, number, kind, request_id, time, content in await connection.fetch(QUERIES["load_inbox"], keys):
        each = loaded[key]
        each.inbox.append(_message(number, each.row.workflow_id, kind, request_id, time, content))
    for key, step_key, attempt, details in await connection.fetch(QUERIES["load_heartbeats"], keys):
        loaded[key].heartbeats.append(Heartbeat(step_key, attempt, details))
    return loaded


async def _load_events(connection: Connection, loaded: dict[int, Loaded]) -> None:
    """Read as many events as fit into one step, and the rest one history at a time."""
    if not loaded:
        return
    for key, content in await connection.fetch(QUERIES["load_events"], list(loaded), EVENTS_AT_ONCE, BYTES_AT_ONCE):
        loaded[key].events.append(content)
    for key, each in loaded.items():
        while len(each.events) < each.row.last_sequence:
            some = await read_events(connection, key, len(each.events), EVENTS_AT_ONCE, BYTES_AT_ONCE)
            if not some:
                break
            each.events.extend(some)


async def read_events(connection: Connection, key: int, after: int, limit: int, max_bytes: int) -> list[bytes]:
    """Return the events of a workflow after a sequence, within the limits."""
    return [content for (content,) in await connection.fetch(QUERIES["read_events"], key, after, limit, max_bytes)]


async def read_inbox(connection: Connection, key: int) -> list[Message]:
    """Return the messages in a workflow's inbox, in the order of commits."""
    return [_message(*columns) for columns in await connection.fetch(QUERIES["read_inbox"], key)]


def _message(number: int, workflow_id: str, kind: int, request_id: str, time: int, content: bytes) -> Message:
    """Return a message. Raise `StoreDamaged` if its kind is none."""
    try:
        return Message(number, workflow_id, InboxKind(kind), request_id, time, content)
    except ValueError as error:
        message = f"a message in the inbox of workflow {workflow_id!r} is damaged; stop the server and restore a backup"
        raise StoreDamaged(message) from error


async def first_column(connection: Connection, name: str, *values: object) -> list[Any]:
    """Return the values of the only column of a statement."""
    return [value for (value,) in await connection.fetch(QUERIES[name], *values)]


async def pairs(connection: Connection, name: str, *values: object) -> list[tuple[Any, Any]]:
    """Return the rows of a statement with two columns."""
    return [(one, two) for one, two in await connection.fetch(QUERIES[name], *values)]


async def suspects(connection: Connection) -> list[Suspect]:
    """Return the ledger."""
    return [
        Suspect(key, step_key, evidence, alone, held=held)
        for key, step_key, evidence, alone, held in await connection.fetch(QUERIES["suspects"])
    ]
