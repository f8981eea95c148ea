"""Add messages to inboxes and determine their outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.rows import FIRST_FINAL_STATE
from mendflow_server.store.records import CommitOutcome, InboxKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow_server.store.postgres.connection import Connection
    from mendflow_server.store.records import BatchResult, Message


class InboxWriter:
    """The messages of a batch. Write them inside the batch's transaction, after its changes.

    The rows of their workflows are locked first. What determines the outcomes is then read for all messages at once.
    The outcome of a message also depends on the messages before it.
    """

    def __init__(self, connection: Connection, messages: Sequence[Message], signal_limit: int) -> None:
        self._connection = connection
        self._messages = messages
        self._signal_limit = signal_limit
        #: Workflow id to row key, state and untaken signals.
        self._receivers: dict[str, tuple[int, int, int]] = {}
        #: Row key and request id of the requests that are known.
        self._seen: set[tuple[int, str]] = set()
        #: Row key to the number of signals in its inbox.
        self._signals: dict[int, int] = {}

    async def write(self, result: BatchResult) -> None:
        """Add the messages that are accepted, and add the outcome of each message to the result."""
        await self._read()
        added: list[tuple[object, ...]] = []
        for message in self._messages:
            outcome = self._outcome_of(message)
            key = self._receivers.get(message.workflow_id, (0,))[0]
            if outcome is CommitOutcome.COMMITTED:
                added.append((key, int(message.kind), message.request_id, message.time, message.content))
            result.messages.append(outcome)
            result.message_keys.append(key)
        numbers: list[int] = []
        if added:
            arrays = zip(*added, strict=True)
            numbers = [number for (number,) in await self._connection.fetch(QUERIES["insert_messages"], *arrays)]
        new = iter(numbers)
        for outcome in result.messages:
            result.message_ids.append(next(new) if outcome is CommitOutcome.COMMITTED else 0)

    async def _read(self) -> None:
        ids = list({message.workflow_id for message in self._messages})
        for workflow_id, key, state, untaken in await self._connection.fetch(QUERIES["receivers"], ids):
            self._receivers[workflow_id] = (key, state, untaken)
        known = [message for message in self._messages if message.workflow_id in self._receivers]
        requests = [
            (self._receivers[message.workflow_id][0], message.request_id) for message in known if message.request_id
        ]
        if requests:
            arrays = zip(*requests, strict=True)
            found = await self._connection.fetch(QUERIES["requests_seen"], *arrays)
            self._seen = {(key, request_id) for key, request_id in found}
        signalled = {self._receivers[message.workflow_id][0] for message in known if message.kind is InboxKind.SIGNAL}
        if signalled:
            found = await self._connection.fetch(QUERIES["count_signals"], list(signalled))
            self._signals = {key: number for key, number in found}  # noqa: C416 - records are no pairs for `dict`

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
