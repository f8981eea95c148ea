"""Add messages to inboxes and determine their outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.records import CommitOutcome, InboxKind
from mendflow_server.store.sqlite.bulk import read_rows, to_json, write_rows
from mendflow_server.store.sqlite.queries import QUERIES
from mendflow_server.store.sqlite.rows import FIRST_FINAL_STATE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from mendflow_server.store.records import BatchResult, Message


class InboxWriter:
    """The messages of a batch. Write them inside the batch's transaction, after its changes.

    What determines the outcomes is read for all messages at once. The outcome of a message also depends on the
    messages before it.
    """

    def __init__(self, connection: sqlite3.Connection, messages: Sequence[Message], signal_limit: int) -> None:
        self._connection = connection
        self._messages = messages
        self._signal_limit = signal_limit
        #: Workflow id to row key, state and untaken signals.
        self._receivers: dict[str, tuple[int, int, int]] = {}
        #: Row key and request id of the requests that are known.
        self._seen: set[tuple[int, str]] = set()
        #: Row key to the number of signals in its inbox.
        self._signals: dict[int, int] = {}

    def write(self, result: BatchResult) -> None:
        """Add the messages that are accepted, and add the outcome of each message to the result."""
        self._read()
        added: list[object] = []
        requests: list[object] = []
        count = 0
        for message in self._messages:
            outcome = self._outcome_of(message)
            key = self._receivers.get(message.workflow_id, (0,))[0]
            if outcome is CommitOutcome.COMMITTED:
                count += 1
                added += (key, int(message.kind), message.request_id, message.time, message.content)
                if message.request_id:
                    requests += (key, message.request_id)
            result.messages.append(outcome)
            result.message_keys.append(key)
        write_rows(self._connection, "insert_message", added, 5)
        write_rows(self._connection, "insert_request", requests, 2)
        number = self._connection.execute(QUERIES["newest_message"]).fetchone()[0] - count if count else 0
        for outcome in result.messages:
            done = outcome is CommitOutcome.COMMITTED
            number += done
            result.message_ids.append(number if done else 0)

    def _read(self) -> None:
        ids = to_json(list({message.workflow_id for message in self._messages}))
        for workflow_id, *rest in read_rows(self._connection, QUERIES["receivers"], {"workflow_ids": ids}):
            self._receivers[workflow_id] = (rest[0], rest[1], rest[2])
        known = [message for message in self._messages if message.workflow_id in self._receivers]
        requests = [
            (self._receivers[message.workflow_id][0], message.request_id) for message in known if message.request_id
        ]
        if requests:
            found = read_rows(self._connection, QUERIES["requests_seen"], {"requests": to_json(requests)})
            self._seen = {(key, request_id) for key, request_id in found}
        signalled = {self._receivers[message.workflow_id][0] for message in known if message.kind is InboxKind.SIGNAL}
        if signalled:
            keys = to_json(list(signalled))
            self._signals = dict(read_rows(self._connection, QUERIES["count_signals"], {"keys": keys}))

    def _outcome_of(self, message: Message) -> CommitOutcome:
        receiver = self._receivers.get(message.workflow_id)
        if receiver is None:
            return CommitOutcome.NOT_FOUND
        key, state, untaken = receiver
        signal = message.kind is InboxKind.SIGNAL
        if (key, message.request_id) in self._seen:
            return CommitOutcome.DUPLICATE
        if state >= FIRST_FINAL_STATE:
            return CommitOutcome.WORKFLOW_ENDED
        if signal:
            if untaken + self._signals[key] >= self._signal_limit:
                return CommitOutcome.INBOX_FULL
            self._signals[key] += 1
        if message.request_id:
            self._seen.add((key, message.request_id))
        return CommitOutcome.COMMITTED
