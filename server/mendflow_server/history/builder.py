"""Build a workflow's new events: number them, apply them to its history, and keep them until they are committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2
from mendflow_server.history.timestamps import set_time

if TYPE_CHECKING:
    from mendflow_server.history.state import History


class HistoryBuilder:
    """A history, and its newest events that are not part of a commit yet."""

    __slots__ = ("_blank", "_stamped", "earliest", "history", "now", "pending")

    def __init__(self, history: History) -> None:
        self.history = history
        self.pending: list[event_pb2.Event] = []
        #: The time of new events, in seconds since the epoch. The engine sets it before each drive.
        self.now = 0.0
        #: No event is earlier. It is the time of the last event that another replica has recorded.
        self.earliest = 0.0
        #: An event that has only its time, and `now` when that was set.
        self._blank, self._stamped = event_pb2.Event(), -1.0

    def new(self) -> event_pb2.Event:
        """Return the next event. The caller sets its detail and then calls `add`."""
        if self._stamped != self.now:
            self._stamped = self.now
            set_time(self._blank.time, self.now)
        event = event_pb2.Event()
        event.CopyFrom(self._blank)
        event.sequence = self.history.last_sequence + 1
        return event

    def add(self, event: event_pb2.Event) -> None:
        """Apply the event to the history and keep it for the next commit."""
        self.history.apply(event)
        self.pending.append(event)

    def take_pending(self) -> list[event_pb2.Event]:
        """Return the new events, which go into one change; they are no longer pending."""
        pending, self.pending = self.pending, []
        return pending

    def undo_to(self, length: int) -> None:
        """Remove the events that workflow code added after the first ``length`` pending ones."""
        while len(self.pending) > length:
            self.history.undo(self.pending.pop())
