"""Where a workflow's new events are made: numbered, folded, and kept until they are committed."""

from __future__ import annotations

from mendflow.v1 import event_pb2
from mendflow_server.history import History, set_time


class Journal:
    """A history, and the events that lead it on and are not on their way to the disk yet."""

    __slots__ = ("history", "now", "pending")

    def __init__(self, history: History) -> None:
        self.history = history
        self.pending: list[event_pb2.Event] = []
        #: The time that new events bear, in seconds since the epoch; set before each drive.
        self.now = 0.0

    def new(self) -> event_pb2.Event:
        """Answer the next event, for its detail to be filled in; then `add` it."""
        event = event_pb2.Event()
        event.sequence = self.history.last_sequence + 1
        set_time(event.time, self.now)
        return event

    def add(self, event: event_pb2.Event) -> None:
        """Take the filled event in."""
        self.history.apply(event)
        self.pending.append(event)
