"""Add messages to inboxes and determine their outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.delivery import Delivery, add_ids
from mendflow_server.store.sqlite.bulk import read_rows, to_json, write_rows
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from mendflow_server.store.records import BatchResult, Message


def write_messages(
    connection: sqlite3.Connection, messages: Sequence[Message], signal_limit: int, result: BatchResult
) -> None:
    """Add the messages of a batch that are accepted, and add the outcome of each message to the result.

    Call it inside the batch's transaction, after the changes are written.
    """
    delivery = Delivery(messages, signal_limit)
    _read(connection, delivery)
    added: list[object] = []
    requests: list[object] = []
    accepted = delivery.decide(result)
    for key, message in accepted:
        added += (key, int(message.kind), message.request_id, message.time, message.content)
        if message.request_id:
            requests += (key, message.request_id)
    write_rows(connection, "insert_message", added, 5)
    write_rows(connection, "insert_request", requests, 2)
    newest = connection.execute(QUERIES["newest_message"]).fetchone()[0] if accepted else 0
    add_ids(result, range(newest - len(accepted) + 1, newest + 1))


def _read(connection: sqlite3.Connection, delivery: Delivery) -> None:
    ids = {"workflow_ids": to_json(delivery.workflow_ids())}
    delivery.add_receivers(read_rows(connection, QUERIES["receivers"], ids))
    if requests := delivery.requests():
        delivery.add_requests(read_rows(connection, QUERIES["requests_seen"], {"requests": to_json(requests)}))
    if keys := delivery.signalled():
        delivery.add_signals(read_rows(connection, QUERIES["count_signals"], {"keys": to_json(keys)}))
