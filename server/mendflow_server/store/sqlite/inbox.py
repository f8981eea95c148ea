"""Messages into the inbox: their verdicts, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow_server.store.interface import InboxKind, Verdict
from mendflow_server.store.sqlite.bulk import read_rows, to_json, write_rows
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from mendflow_server.store.interface import BatchResult, Message

_FIRST_FINAL_STATE: Final = 7


class Delivery:
    """The messages of a batch, inside its transaction and after its changes.

    What decides about them is read for all at once; then each is judged by that and by those before it.
    """

    def __init__(self, connection: sqlite3.Connection, messages: Sequence[Message], signal_limit: int) -> None:
        self._connection = connection
        self._messages = messages
        self._signal_limit = signal_limit
        #: Workflow id to row key, state and untaken signals.
        self._receivers: dict[str, tuple[int, int, int]] = {}
        #: Row key and request id of what was sent before.
        self._seen: set[tuple[int, str]] = set()
        #: Row key to the number of signals in its inbox.
        self._signals: dict[int, int] = {}

    def write(self, result: BatchResult) -> None:
        """Add those that may be added, and every verdict to the result."""
        self._read()
        added: list[object] = []
        requests: list[object] = []
        count = 0
        for message in self._messages:
            verdict = self._judge(message)
            key = self._receivers.get(message.workflow_id, (0,))[0]
            if verdict is Verdict.DONE:
                count += 1
                added += (key, int(message.kind), message.request_id, message.time, message.content)
                if message.request_id:
                    requests += (key, message.request_id)
            result.messages.append(verdict)
            result.message_keys.append(key)
        write_rows(self._connection, "insert_message", added, 5)
        write_rows(self._connection, "insert_request", requests, 2)
        number = self._connection.execute(QUERIES["newest_message"]).fetchone()[0] - count if count else 0
        for verdict in result.messages:
            done = verdict is Verdict.DONE
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

    def _judge(self, message: Message) -> Verdict:
        receiver = self._receivers.get(message.workflow_id)
        if receiver is None:
            return Verdict.MISSING
        key, state, untaken = receiver
        signal = message.kind is InboxKind.SIGNAL
        if (key, message.request_id) in self._seen:
            return Verdict.DUPLICATE
        if state >= _FIRST_FINAL_STATE:
            return Verdict.ENDED
        if signal:
            if untaken + self._signals[key] >= self._signal_limit:
                return Verdict.FULL
            self._signals[key] += 1
        if message.request_id:
            self._seen.add((key, message.request_id))
        return Verdict.DONE
