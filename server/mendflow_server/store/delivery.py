"""The outcomes of messages, by what a store has read of their workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.records import FIRST_FINAL_STATE, CommitOutcome, InboxKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow_server.store.records import BatchResult, Message


class Delivery:
    """The messages of a batch.

    What determines their outcomes is read for all messages at once: first the receivers, then the requests and the
    numbers of signals. The outcome of a message also depends on the messages before it.
    """

    def __init__(self, messages: Iterable[Message], signal_limit: int) -> None:
        self._messages = messages
        self._signal_limit = signal_limit
        #: Workflow id to row key, state and untaken signals.
        self._receivers: dict[str, tuple[int, int, int]] = {}
        #: Row key and request id of the requests that are known.
        self._seen: set[tuple[int, str]] = set()
        #: Row key to the number of signals in its inbox.
        self._signals: dict[int, int] = {}

    def workflow_ids(self) -> list[str]:
        """Return the ids of the workflows that the messages are for."""
        return list({message.workflow_id for message in self._messages})

    def add_receivers(self, found: Iterable[tuple[str, int, int, int]]) -> None:
        """Add those that exist: workflow id, row key, state and untaken signals."""
        self._receivers = {workflow_id: (key, state, untaken) for workflow_id, key, state, untaken in found}

    def requests(self) -> list[tuple[int, str]]:
        """Return the row keys and request ids of the messages that have one and whose workflow exists."""
        return [
            (self._receivers[message.workflow_id][0], message.request_id)
            for message in self._messages
            if message.request_id and message.workflow_id in self._receivers
        ]

    def add_requests(self, found: Iterable[tuple[int, str]]) -> None:
        """Add the requests that are known: row key and request id."""
        self._seen = {(key, request_id) for key, request_id in found}

    def signalled(self) -> list[int]:
        """Return the row keys of the workflows that get a signal."""
        keys = {
            self._receivers[message.workflow_id][0]
            for message in self._messages
            if message.kind is InboxKind.SIGNAL and message.workflow_id in self._receivers
        }
        return list(keys)

    def add_signals(self, found: Iterable[tuple[int, int]]) -> None:
        """Add the numbers of signals in the inboxes: row key and number."""
        self._signals = {key: number for key, number in found}  # noqa: C416 - records are no pairs for `dict`

    def decide(self, result: BatchResult) -> list[tuple[int, Message]]:
        """Add the outcome of each message to the result. Return the messages to add to inboxes, with their row keys."""
        accepted = []
        for message in self._messages:
            outcome = self._outcome_of(message)
            key = self._receivers.get(message.workflow_id, (0,))[0]
            if outcome is CommitOutcome.COMMITTED:
                accepted.append((key, message))
            result.messages.append(outcome)
            result.message_keys.append(key)
        return accepted

    def _outcome_of(self, message: Message) -> CommitOutcome:
        receiver = self._receivers.get(message.workflow_id)
        if receiver is None:
            return CommitOutcome.NOT_FOUND
        key, state, untaken = receiver
        if (key, message.request_id) in self._seen:
            return CommitOutcome.DUPLICATE
        if state >= FIRST_FINAL_STATE:
            return CommitOutcome.WORKFLOW_ENDED
        if message.kind is InboxKind.SIGNAL:
            if untaken + self._signals[key] >= self._signal_limit:
                return CommitOutcome.INBOX_FULL
            self._signals[key] += 1
        if message.request_id:
            self._seen.add((key, message.request_id))
        return CommitOutcome.COMMITTED


def add_ids(result: BatchResult, ids: Iterable[int]) -> None:
    """Add the ids of the accepted messages, in their order, to the result."""
    new = iter(ids)
    for outcome in result.messages:
        result.message_ids.append(next(new) if outcome is CommitOutcome.COMMITTED else 0)
