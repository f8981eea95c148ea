"""All writes but purges. Each runs on the one session that writes, as one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.errors import StoreError
from mendflow_server.store.postgres.inbox import InboxWriter
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.rows import from_columns
from mendflow_server.store.records import BatchResult, CommitOutcome, Guard, Life

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.postgres.encoder import EncodedChanges
    from mendflow_server.store.records import Batch, Row, Suspect


async def commit(
    connection: Connection, batch: Batch, keys: Sequence[int], encoded: EncodedChanges, signal_limit: int
) -> BatchResult:
    """Commit a batch. ``keys`` and ``encoded`` have the keys and the encoded values of its changes.

    Changes alone are one statement, which is a transaction of its own.
    """
    if batch.messages:
        async with connection.transaction():
            result = BatchResult(await _write(connection, batch, keys, encoded), [], [], [])
            await InboxWriter(connection, batch.messages, signal_limit).write(result)
    else:
        result = BatchResult(await _write(connection, batch, keys, encoded), [], [], [])
    # Set the keys only now: a row without a key is not in the store.
    for change, key, outcome in zip(batch.changes, keys, result.changes, strict=True):
        if change.guard is None and outcome is CommitOutcome.COMMITTED:
            change.row.key = key
    return result


async def _write(
    connection: Connection, batch: Batch, keys: Sequence[int], encoded: EncodedChanges
) -> list[CommitOutcome]:
    if not keys:
        return []
    statement, values = encoded.statement()
    accepted = await connection.fetch(statement, *values)
    if len(accepted) == len(keys):
        return [CommitOutcome.COMMITTED] * len(keys)
    found = {key for (key,) in accepted}
    refused = [key for change, key in zip(batch.changes, keys, strict=True) if change.final and key not in found]
    # A final change whose guard still holds met a message. If it held only later, its driver tries again.
    heads = await read_heads(connection, refused) if refused else {}
    return [
        CommitOutcome.COMMITTED
        if key in found
        else CommitOutcome.ID_EXISTS
        if change.guard is None
        else CommitOutcome.INBOX_NOT_EMPTY
        if change.final and heads.get(key) == change.guard
        else CommitOutcome.CONFLICT
        for change, key in zip(batch.changes, keys, strict=True)
    ]


async def read_heads(connection: Connection, keys: Sequence[int]) -> dict[int, Guard]:
    """Return generation and last sequence by key."""
    found = await connection.fetch(QUERIES["heads"], list(keys))
    return {key: Guard(generation, sequence) for key, generation, sequence in found}


async def begin_life(connection: Connection, life: Life) -> Life | None:
    """Record a server process and return the previous one."""
    async with connection.transaction():
        found = await connection.fetchrow(QUERIES["newest_life"], life.replica_id)
        await connection.execute(QUERIES["insert_life"], life.replica_id, life.start_time, life.beat_time, life.drained)
        await connection.execute(QUERIES["drop_old_lives"])
    return None if found is None else Life(found[0], found[1], found[2], drained=found[3])


async def beat(connection: Connection, replica_id: str, time: int, *, drained: bool) -> None:
    """Record that a server process is alive."""
    if await connection.execute(QUERIES["beat"], replica_id, time, drained) != "UPDATE 1":
        message = f"replica {replica_id!r} is not recorded in the store; this is an internal error"
        raise StoreError(message)


async def write_suspects(connection: Connection, suspects: Sequence[Suspect]) -> None:
    """Replace the ledger."""
    rows = [(each.key, each.step_key, each.evidence, each.alone, each.held) for each in suspects]
    async with connection.transaction():
        await connection.execute(QUERIES["drop_suspects"])
        if rows:
            await connection.execute(QUERIES["insert_suspects"], *zip(*rows, strict=True))


async def set_held(connection: Connection, workflow_id: str, *, held: bool) -> Row | None:
    """Hold a workflow, or release it; return its row."""
    found = await connection.fetchrow(QUERIES["set_held"], workflow_id, held)
    return None if found is None else from_columns(found)
