"""All writes except purges. Each runs on the one session that writes, as one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.columns import life_of, row_of
from mendflow_server.store.errors import fenced, unknown_replica
from mendflow_server.store.postgres.inbox import write_messages
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.reader import heads
from mendflow_server.store.records import BatchResult, CommitOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.postgres.encoder import EncodedChanges
    from mendflow_server.store.records import Batch, Life, Row, Suspect


async def commit(
    connection: Connection, batch: Batch, keys: Sequence[int], encoded: EncodedChanges, signal_limit: int
) -> BatchResult:
    """Commit a batch. ``keys`` and ``encoded`` have the keys and the encoded values of its changes.

    Changes alone are one statement, which is a transaction of its own.
    """
    if batch.messages:
        async with connection.transaction():
            result = BatchResult(await _write(connection, batch, keys, encoded), [], [], [])
            await write_messages(connection, batch.messages, signal_limit, result)
    else:
        result = BatchResult(await _write(connection, batch, keys, encoded), [], [], [])
    batch.set_keys(keys, result.changes)
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
    guards = await heads(connection, refused) if refused else {}
    return [
        CommitOutcome.COMMITTED
        if key in found
        else CommitOutcome.ID_EXISTS
        if change.guard is None
        else CommitOutcome.INBOX_NOT_EMPTY
        if change.final and guards.get(key) == change.guard
        else CommitOutcome.CONFLICT
        for change, key in zip(batch.changes, keys, strict=True)
    ]


async def begin_life(
    connection: Connection, life: Life, *, earlier: str, number: int, build: str, lease: int
) -> Life | None:
    """Record a replica, and end the ``earlier`` life of the same process. Return the life that began last before.

    ``lease`` is in microseconds.
    """
    async with connection.transaction():
        found = await connection.fetchrow(QUERIES["newest_life"], life.replica_id)
        if earlier and earlier != life.replica_id:
            await connection.execute(QUERIES["end_life"], earlier)
        values = (life.replica_id, life.start_time, life.beat_time, life.drained)
        await connection.execute(QUERIES["insert_life"], number, *values, build, lease)
        await connection.execute(QUERIES["drop_old_lives"])
    return life_of(found)


async def beat(
    connection: Connection, replica_id: str, time: int, *, drained: bool, load: int, lease: int, place: str
) -> None:
    """Record that a replica is alive, and renew its lease. Raise `ReplicaFenced` if its end is judged."""
    if await connection.execute(QUERIES["beat"], replica_id, time, drained, load, lease) == "UPDATE 1":
        return
    if await connection.fetchval(QUERIES["judged"], replica_id) is None:
        raise unknown_replica(replica_id, place)
    raise fenced(replica_id)


async def write_suspects(connection: Connection, suspects: Sequence[Suspect], replica_id: str) -> None:
    """Replace a replica's part of the ledger. Do nothing if its end is judged: then its judge has that part."""
    rows = [(each.key, each.step_key, each.evidence, each.alone, each.held) for each in suspects]
    async with connection.transaction():
        if await connection.fetchval(QUERIES["is_fenced"], replica_id):
            return
        await connection.execute(QUERIES["drop_suspects"], replica_id)
        if rows:
            await connection.execute(QUERIES["insert_suspects"], *zip(*rows, strict=True), replica_id)


async def set_held(connection: Connection, workflow_id: str, *, held: bool) -> Row | None:
    """Hold a workflow, or release it; return its row."""
    found = await connection.fetchrow(QUERIES["set_held"], workflow_id, held)
    return None if found is None else row_of(found)
