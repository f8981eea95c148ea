"""The interface through which committed events reach logs, spans and other outputs."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from mendflow.v1 import event_pb2
    from mendflow_server.history.state import History
    from mendflow_server.store.records import Row

__all__ = ["FanOut", "Observer"]


class Observer:
    """Receives committed events. The methods do nothing by default.

    The engine calls them on the event loop, after the commit and in the order of
    the events. They must return at once and must not raise.
    """

    #: Whether the engine must call `attempt_closed`.
    traces: bool = False

    def workflow_started(self, row: Row) -> None:
        """Receive the start of a workflow."""

    def workflow_recovered(self, row: Row, event: event_pb2.Event) -> None:
        """Receive the takeover of a workflow by a new driver."""

    def attempt_failed(self, row: Row, event: event_pb2.Event) -> None:
        """Receive an attempt that failed, was lost or was cancelled."""

    def attempt_closed(self, row: Row, history: History, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        """Receive the first and the last event of an attempt that is closed."""

    def workflow_ended(self, row: Row, history: History, final: event_pb2.Event) -> None:
        """Receive the end of a workflow."""

    def operator_act(self, row: Row, event: event_pb2.Event) -> None:
        """Receive an operator's cancel, resume or terminate."""

    def alert(self, row: Row, event: event_pb2.Event) -> None:
        """Receive an alert."""

    def attempt_context(self, row: Row, history: History, step_key: str, number: int) -> contextvars.Context:  # noqa: ARG002 - for overriding
        """Return the context variables in which an attempt's code runs."""
        return contextvars.Context()


class FanOut(Observer):
    """Forwards each call to several observers in order. The last one provides the context of attempts."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self.traces = any(each.traces for each in observers)

    @override
    def workflow_started(self, row: Row) -> None:
        for each in self._observers:
            each.workflow_started(row)

    @override
    def workflow_recovered(self, row: Row, event: event_pb2.Event) -> None:
        for each in self._observers:
            each.workflow_recovered(row, event)

    @override
    def attempt_failed(self, row: Row, event: event_pb2.Event) -> None:
        for each in self._observers:
            each.attempt_failed(row, event)

    @override
    def attempt_closed(self, row: Row, history: History, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        for each in self._observers:
            if each.traces:
                each.attempt_closed(row, history, started, closed)

    @override
    def workflow_ended(self, row: Row, history: History, final: event_pb2.Event) -> None:
        for each in self._observers:
            each.workflow_ended(row, history, final)

    @override
    def operator_act(self, row: Row, event: event_pb2.Event) -> None:
        for each in self._observers:
            each.operator_act(row, event)

    @override
    def alert(self, row: Row, event: event_pb2.Event) -> None:
        for each in self._observers:
            each.alert(row, event)

    @override
    def attempt_context(self, row: Row, history: History, step_key: str, number: int) -> contextvars.Context:
        return self._observers[-1].attempt_context(row, history, step_key, number)
