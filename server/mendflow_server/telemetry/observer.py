"""The interface through which committed events reach logs and spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import contextvars

    from mendflow.v1 import event_pb2
    from mendflow_server.history.state import History
    from mendflow_server.store.records import Row


class Observer(Protocol):
    """Who is told of what is on disk: logs and spans."""

    #: Whether `attempt_closed` is of interest.
    traces: bool

    def workflow_started(self, row: Row) -> None:
        """A new workflow is on disk."""

    def workflow_recovered(self, row: Row, event: event_pb2.Event) -> None:
        """A workflow was taken over."""

    def attempt_failed(self, row: Row, event: event_pb2.Event) -> None:
        """An attempt failed, was lost or was cancelled."""

    def attempt_closed(self, row: Row, history: History, started: event_pb2.Event, closed: event_pb2.Event) -> None:
        """An attempt is closed: its span can be told."""

    def workflow_ended(self, row: Row, history: History, final: event_pb2.Event) -> None:
        """A workflow has ended: its span can be told."""

    def operator_act(self, row: Row, event: event_pb2.Event) -> None:
        """Someone cancelled, resumed or terminated a workflow."""

    def alert(self, row: Row, event: event_pb2.Event) -> None:
        """An alert was raised."""

    def attempt_context(self, row: Row, history: History, step_key: str, number: int) -> contextvars.Context:
        """Answer the context variables that an attempt's code starts with."""
