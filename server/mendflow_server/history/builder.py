"""Where a workflow's new events are made: numbered, folded, and kept until they are committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2
from mendflow_server.history.timestamps import micros_of

if TYPE_CHECKING:
    from mendflow_server.history.state import History


class HistoryBuilder:
    """A history, and the events that lead it on and are not on their way to the disk yet."""

    __slots__ = ("_nanos", "_seconds", "_stamped", "history", "now", "pending")

    def __init__(self, history: History) -> None:
        self.history = history
        self.pending: list[event_pb2.Event] = []
        #: The time that new events bear, in seconds since the epoch; set before each drive.
        self.now = 0.0
        #: That time, taken apart.
        self._stamped, self._seconds, self._nanos = 0.0, 0, 0

    def new(self) -> event_pb2.Event:
        """Answer the next event, for its detail to be filled in; then `add` it."""
        event = event_pb2.Event()
        event.sequence = self.history.last_sequence + 1
        if self._stamped != self.now:
            self._stamped = self.now
            self._seconds, micros = divmod(micros_of(self.now), 1_000_000)
            self._nanos = micros * 1000
        time = event.time
        time.seconds = self._seconds
        time.nanos = self._nanos
        return event

    def add(self, event: event_pb2.Event) -> None:
        """Take the filled event in."""
        self.history.apply(event)
        self.pending.append(event)

    def take_pending(self) -> list[event_pb2.Event]:
        """Return the new events, which go into one change; they are no longer pending."""
        pending, self.pending = self.pending, []
        return pending

    def undo_to(self, length: int) -> None:
        """Take back what workflow code added after the first ``length`` pending events."""
        while len(self.pending) > length:
            self.history.undo(self.pending.pop())
