"""What a workflow has done since its last commit, and what follows from it.

Everything gathers here until `seal` makes one `Change` of it. Effects and
attempts belong to that change: they happen when it is committed, never before.
The row's generation and last sequence are the guard of each change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mendflow_server.execution import closing
from mendflow_server.history.timestamps import micros_of, seconds
from mendflow_server.store.records import Alert, Change, Guard, InboxKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mendflow.v1 import event_pb2
    from mendflow_server.attempts.model import AttemptRequest
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.history.workflow_status import WorkflowStatus
    from mendflow_server.store.records import Heartbeat, Message, Row


class Sealed(NamedTuple):
    """What a submitted change holds, and what follows once it is committed."""

    events: list[event_pb2.Event]
    effects: Sequence[Callable[[], None]]
    launches: Sequence[AttemptRequest]


_NOTHING = Sealed([], (), ())


class UnitOfWork:
    """The uncommitted part of one workflow."""

    __slots__ = (
        "_alerts",
        "_builder",
        "_consumed",
        "_effects",
        "_heartbeats",
        "_launches",
        "_sealed",
        "guard",
        "in_flight",
        "row",
    )

    def __init__(self, row: Row, guard: Guard | None, builder: HistoryBuilder) -> None:
        #: The newest committed row; for a new workflow, the row of its first commit.
        self.row = row
        #: What the committed row must hold for the next change; None: there is no row yet.
        self.guard = guard
        self._builder = builder
        #: Whether a change is submitted and not decided yet.
        self.in_flight = False
        self._sealed = _NOTHING
        # Most changes have none of these, so each container is made on first use.
        self._effects: list[Callable[[], None]] | None = None
        self._launches: list[AttemptRequest] | None = None
        self._consumed: list[int] | None = None
        self._heartbeats: dict[str, Heartbeat] | None = None
        self._alerts: list[Alert] | None = None

    # Gathering.

    def add_effect(self, effect: Callable[[], None]) -> None:
        """Call ``effect`` once the change is committed."""
        if self._effects is None:
            self._effects = [effect]
        else:
            self._effects.append(effect)

    def add_launch(self, request: AttemptRequest) -> None:
        """Run an attempt once the change is committed."""
        if self._launches is None:
            self._launches = [request]
        else:
            self._launches.append(request)

    def consume(self, message_id: int) -> None:
        """Remove a message from the inbox with the change."""
        if self._consumed is None:
            self._consumed = [message_id]
        else:
            self._consumed.append(message_id)

    def keep_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Store the newest heartbeat of a step with the change."""
        if self._heartbeats is None:
            self._heartbeats = {}
        self._heartbeats[heartbeat.step_key] = heartbeat

    def raise_alert(self, name: str, severity: event_pb2.AlertSeverity.ValueType, message: str) -> None:
        """Record an alert: an event, and a row beside it."""
        event = self._builder.new()
        event.alert_raised.name = name
        event.alert_raised.severity = severity
        event.alert_raised.message = message
        self._builder.add(event)
        alert = Alert(micros_of(self._builder.now), name, severity, message)
        if self._alerts is None:
            self._alerts = [alert]
        else:
            self._alerts.append(alert)

    # Committing.

    def has_changes(self, status: WorkflowStatus) -> bool:
        """Return whether there is anything to commit; ``status`` is the workflow's status now."""
        row = self.row
        return bool(
            self._builder.pending
            or self._heartbeats
            or self._consumed
            or status.state != row.state
            or status.reason != row.reason
        )

    def seal(self, status: WorkflowStatus) -> Change:
        """Return all that has gathered as one change. The caller submits it."""
        pending = self._builder.take_pending()
        events = [(event.sequence, event.SerializeToString()) for event in pending]
        history = self._builder.history
        final = history.final
        state, reason, explanation, wake = status
        row = self.row.advanced(
            state,
            reason,
            explanation,
            history.last_sequence,
            None if wake is None else micros_of(wake),
            None if final is None else micros_of(seconds(final.time)),
            history.untaken_signals,
        )
        change = Change(row, self.guard, events, final=final is not None)
        if self._consumed is not None:
            change.consumed = tuple(self._consumed)
            self._consumed = None
        if self._heartbeats is not None:
            change.heartbeats = tuple(self._heartbeats.values())
            self._heartbeats = None
        if self._alerts is not None:
            change.alerts = tuple(self._alerts)
            self._alerts = None
        self._sealed = Sealed(pending, self._effects or (), self._launches or ())
        self._effects = self._launches = None
        self.in_flight = True
        return change

    def settle(self, committed: Change | None) -> Sealed:
        """Return what the submitted change holds, because the committer has decided it.

        ``committed`` is the change if it was committed; its row is the committed one from now on.
        """
        if committed is not None:
            committed.row.held = self.row.held  # An operator may have changed it meanwhile.
            row = self.row = committed.row
            self.guard = Guard(row.generation, row.last_sequence)
        sealed, self._sealed = self._sealed, _NOTHING
        self.in_flight = False
        return sealed

    def hold(self, sealed: Sealed) -> None:
        """Keep a decided change as submitted: it goes to the committer once more."""
        self._sealed = sealed
        self.in_flight = True

    def add_late_messages(self, change: Change, sealed: Sealed, messages: Iterable[Message]) -> None:
        """Put messages that arrived before the final event into the history before it, undelivered."""
        history, events = self._builder.history, sealed.events
        final = events.pop()
        taken = list(change.consumed)
        # The history does not have the events that an earlier try put before the end.
        cancelled = bool(history.cancel) or any(event.HasField("cancel_requested") for event in events)
        for message in messages:
            if message.id in taken:
                continue
            taken.append(message.id)
            if cancelled and message.kind is InboxKind.CANCEL:
                continue
            event = closing.undelivered(message, final)
            if event is not None:
                cancelled = cancelled or event.HasField("cancel_requested")
                events.append(event)
                final.sequence += 1
        events.append(final)
        history.last_sequence = final.sequence
        change.events = [(event.sequence, event.SerializeToString()) for event in events]
        change.consumed = tuple(taken)
        change.row.last_sequence = final.sequence

    def discard(self) -> Sequence[AttemptRequest]:
        """Drop everything that has gathered; return the attempts that will not run."""
        launches, self._launches = self._launches, None
        self._effects = self._consumed = self._heartbeats = self._alerts = None
        return launches or ()
