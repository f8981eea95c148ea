"""Add messages to inboxes and determine their outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.delivery import Delivery, add_ids
from mendflow_server.store.postgres.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import BatchResult, Message


async def write_messages(
    connection: Connection, messages: Sequence[Message], signal_limit: int, result: BatchResult
) -> None:
    """Add the messages of a batch that are accepted, and add the outcome of each message to the result.

    Call it inside the batch's transaction, after the changes are written. It locks the rows of the workflows first.
    """
    delivery = Delivery(messages, signal_limit)
    await _read(connection, delivery)
    added = [
        (key, int(message.kind), message.request_id, message.time, message.content)
        for key, message in delivery.decide(result)
    ]
    found = await connection.fetch(QUERIES["insert_messages"], *zip(*added, strict=True)) if added else []
    add_ids(result, (number for (number,) in found))


async def _read(connection: Connection, delivery: Delivery) -> None:
    delivery.add_receivers(await connection.fetch(QUERIES["receivers"], delivery.workflow_ids()))
    if requests := delivery.requests():
        delivery.add_requests(await connection.fetch(QUERIES["requests_seen"], *zip(*requests, strict=True)))
    if keys := delivery.signalled():
        delivery.add_signals(await connection.fetch(QUERIES["count_signals"], keys))
