"""The messages of the inbox become events of the history, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.history.timestamps import set_time
from mendflow_server.store.records import InboxKind

if TYPE_CHECKING:
    from mendflow.v1 import event_pb2
    from mendflow_server.execution.services import Services
    from mendflow_server.execution.unit_of_work import UnitOfWork
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.store.records import Message


class MessageRecorder:
    """The messages of one workflow. It is made for the first one, since most workflows get none."""

    __slots__ = ("_builder", "_seen", "_services", "_unit")

    def __init__(self, services: Services, builder: HistoryBuilder, unit: UnitOfWork) -> None:
        self._services = services
        self._builder = builder
        self._unit = unit
        #: The ids of the messages that were taken.
        self._seen: set[int] = set()

    def take(self, message: Message) -> bool:
        """Take a message out of the inbox; return False if that was done before, or the workflow has ended."""
        if message.id in self._seen or self._builder.history.final is not None:
            return False
        self._seen.add(message.id)
        self._unit.consume(message.id)
        return True

    def record(self, message: Message) -> event_pb2.Event | None:
        """Record a signal, a cancel or a resume, and return its event. None: it changes nothing, so it has none.

        What an operator does is reported once it is committed.
        """
        history = self._builder.history
        if message.kind is InboxKind.CANCEL and history.cancel:
            return None
        if message.kind is InboxKind.RESUME and not history.stopped:
            return None
        event = self._builder.new()
        if message.kind is InboxKind.SIGNAL:
            event.signal_received.MergeFromString(message.content)
        elif message.kind is InboxKind.CANCEL:
            event.cancel_requested.MergeFromString(message.content)
            deadline = self._builder.now + self._services.settings.cleanup_timeout
            set_time(event.cancel_requested.cleanup_deadline, deadline)
        else:
            event.workflow_resumed.MergeFromString(message.content)
        self._builder.add(event)
        if message.kind is not InboxKind.SIGNAL:
            observer, unit = self._services.observer, self._unit
            unit.add_effect(lambda: observer.operator_act(unit.row, event))
        return event
