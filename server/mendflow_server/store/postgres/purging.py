"""Purge finished workflows, and give their space back.

A purge has two halves, so that no transaction is long and no reader sees a history with a hole. The first half deletes
the rows of some workflows and notes their keys in ``purged``. From then on no query finds them. The second half deletes
what they left in the other tables, a bounded portion at a time, and then the note. A crash between two portions leaves
the notes, so the next process continues. PostgreSQL's autovacuum makes the space free for new rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.purging import BYTES_AT_ONCE, ROWS_AT_ONCE, WORKFLOWS_AT_ONCE, judge
from mendflow_server.store.records import PurgeOutcome

if TYPE_CHECKING:
    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import PurgeResult


async def purge_ended(connection: Connection, workflow_type: str, until: int, limit: int) -> int:
    """Do the first half for expired workflows of a type; return how many."""
    async with connection.transaction():
        found = await connection.fetch(QUERIES["expired"], workflow_type, until, limit)
        if found:
            await connection.execute(QUERIES["detach"], [key for (key,) in found])
    return len(found)


async def purge(connection: Connection, workflow_id: str, uid: str) -> PurgeResult:
    """Do the first half for one workflow, if it has ended and is not held."""
    async with connection.transaction():
        found = await connection.fetchrow(QUERIES["purge_candidate"], workflow_id)
        result = judge(found, uid)
        if result.outcome is PurgeOutcome.PURGED:
            await connection.execute(QUERIES["detach"], [found[0]])
    return result


async def reclaim(connection: Connection) -> bool:
    """Do a portion of the second half; return whether there was one."""
    async with connection.transaction():
        keys = [key for (key,) in await connection.fetch(QUERIES["purged"], WORKFLOWS_AT_ONCE)]
        if not keys:
            return False
        await connection.execute(QUERIES["reclaim_events"], keys, ROWS_AT_ONCE, BYTES_AT_ONCE)
        await connection.execute(QUERIES["reclaim_requests"], keys, ROWS_AT_ONCE)
        await connection.execute(QUERIES["reclaim_alerts"], keys, ROWS_AT_ONCE)
        await connection.execute(QUERIES["reclaim_unfit"], keys)
        await connection.execute(QUERIES["drop_purged"], keys)
    return True
