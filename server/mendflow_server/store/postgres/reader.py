"""All reads except lists. Each sees one state of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.columns import COLUMNS, message_of, row_of, suspect_of
from mendflow_server.store.loading import (
    BYTES_AT_ONCE,
    EVENTS_AT_ONCE,
    add_heartbeats,
    add_messages,
    loaded_by_key,
    portions,
)
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.records import FIRST_FINAL_STATE, Guard, StoredSnapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import Loaded, Message, Row, Suspect


async def heads(connection: Connection, keys: Sequence[int]) -> dict[int, Guard]:
    """Return generation and last sequence by key."""
    found = await connection.fetch(QUERIES["heads"], list(keys))
    return {key: Guard(generation, sequence) for key, generation, sequence in found}


async def find(connection: Connection, workflow_ids: Sequence[str]) -> dict[str, Row]:
    """Return rows by workflow id."""
    rows = [row_of(columns) for columns in await connection.fetch(QUERIES["find"], list(workflow_ids))]
    return {row.workflow_id: row for row in rows}


async def snapshot(connection: Connection, workflow_id: str) -> StoredSnapshot | None:
    """Return a workflow with its first and final event, or None if there is no such workflow."""
    found = await connection.fetchrow(QUERIES["snapshot"], workflow_id)
    if found is None:
        return None
    row = row_of(found[: len(COLUMNS)])
    return StoredSnapshot(row, found["first"], found["last"] if row.state >= FIRST_FINAL_STATE else None)


async def load(connection: Connection, keys: Sequence[int]) -> list[Loaded]:
    """Return everything needed to drive these workflows."""
    loaded: list[Loaded] = []
    for some in portions(keys):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = await _load(connection, some)
        loaded.extend(found[key] for key in some if key in found)
    return loaded


async def _load(connection: Connection, keys: list[int]) -> dict[int, Loaded]:
    loaded = loaded_by_key(await connection.fetch(QUERIES["load_rows"], keys))
    await _load_events(connection, loaded)
    add_messages(loaded, await connection.fetch(QUERIES["load_inbox"], keys))
    add_heartbeats(loaded, await connection.fetch(QUERIES["load_heartbeats"], keys))
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
    return [message_of(*columns) for columns in await connection.fetch(QUERIES["read_inbox"], key)]


async def due(connection: Connection, replica_id: str, until: int, limit: int) -> list[tuple[int, int]]:
    """Return (wake_time, key) of a replica's workflows, earliest first."""
    return [(wake_time, key) for wake_time, key in await connection.fetch(QUERIES["due"], replica_id, until, limit)]


async def in_progress(connection: Connection, replica_id: str, after_key: int, limit: int) -> list[int]:
    """Return the keys of a replica's workflows that need a driver."""
    return [key for (key,) in await connection.fetch(QUERIES["in_progress"], replica_id, after_key, limit)]


async def stopped_for(connection: Connection, replica_id: str, reason: int, after_key: int, limit: int) -> list[int]:
    """Return the keys of a replica's open workflows with this reason."""
    return [key for (key,) in await connection.fetch(QUERIES["stopped_for"], replica_id, reason, after_key, limit)]


async def last_beat(connection: Connection) -> int:
    """Return the time of the newest life's last beat; 0 if there is no life."""
    return await connection.fetchval(QUERIES["last_beat"]) or 0


async def first_ended(connection: Connection) -> dict[str, int]:
    """Return the earliest end of the workflows of each type that can be purged."""
    return {name: end_time for name, end_time in await connection.fetch(QUERIES["first_ended"])}  # noqa: C416 - records are no pairs for `dict`


async def suspects(connection: Connection, replica_id: str) -> list[Suspect]:
    """Return a replica's part of the ledger."""
    return [suspect_of(columns) for columns in await connection.fetch(QUERIES["suspects"], replica_id)]
