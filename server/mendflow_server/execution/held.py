"""A workflow in memory, and its way to the disk.

What happens to it gathers in the builder; `flush` sends all of it to the
committer as one change, guarded by what this driver read: the generation and
the last sequence. Effects wait for that change. When the guard proves stale,
another driver has the workflow, and everything here is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mendflow_server.attempts.attempts import Body, Listener, Order
from mendflow_server.execution import closing
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.timestamps import seconds
from mendflow_server.history.workflow_status import WorkflowStatus, derive_status, next_time
from mendflow_server.store.records import Alert, Change, CommitOutcome, Guard, Heartbeat, InboxKind, Message, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1 import event_pb2
    from mendflow_server.attempts.attempts import Slots
    from mendflow_server.execution.kernel import Kernel
    from mendflow_server.history.state import History
    from mendflow_server.replay.workflow_runner import WorkflowRunner
    from mendflow_server.runtime.timers import Timer


class Held(Listener):
    """A workflow in memory: its history, its row, and what is not on disk yet."""

    __slots__ = (
        "_alerts",
        "_busy",
        "_effects",
        "_faulted",
        "_heartbeats",
        "_held",
        "_last_heartbeats",
        "_launches",
        "_not_served",
        "_report_timer",
        "_reported",
        "_retried",
        "_seen",
        "_sent",
        "_slot_waits",
        "_taken",
        "_timer",
        "_timer_at",
        "_warned",
        "_withdrawn",
        "bodies",
        "builder",
        "gone",
        "guard",
        "history",
        "in_commit",
        "kernel",
        "queued",
        "rested",
        "row",
        "run",
        "workflow",
    )

    def __init__(
        self,
        kernel: Kernel,
        row: Row,
        history: History,
        *,
        guard: Guard | None,
        workflow: Workflow[Any, Any] | None,
    ) -> None:
        self.kernel = kernel
        #: The newest row on disk; for a new workflow, the first that will be.
        self.row = row
        self.guard = guard
        self.history = history
        self.builder = HistoryBuilder(history)
        #: None: no server of this kind can run it.
        self.workflow = workflow
        self.run: WorkflowRunner | None = None
        self.bodies: dict[str, Body] = {}
        #: Dropped: nothing may come of it any more.
        self.gone = False
        self.in_commit = False
        #: When it last came to rest, by the monotonic clock.
        self.rested = 0.0
        self._effects: list[Callable[[], None]] = []
        self._launches: list[Order] = []
        #: What the change on its way to the disk has in it.
        self._sent = _NOTHING
        self._taken: list[int] = []
        self._seen: set[int] = set()
        self._heartbeats: dict[str, Heartbeat] = {}
        self._last_heartbeats: dict[str, bytes] = {}
        self._alerts: list[Alert] = []
        #: Steps that wait for a slot, with the slots of whose one was taken for it meanwhile.
        self._slot_waits: dict[str, Slots | None] = {}
        #: Steps whose newest attempt was withdrawn before its code ran.
        self._withdrawn: set[str] = set()
        #: How many acts on it wait for their turn.
        self.queued = 0
        self._busy = False
        self._held = False
        self._not_served = False
        #: Why it is stopped while what a fault of our own left is taken in.
        self._faulted = ""
        self._warned = False
        #: A result has come in while the code did not fit: with it, it may.
        self._retried = False
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._reported: dict[str, float] = {}
        self._report_timer: Timer | None = None

    @property
    def idle(self) -> bool:
        """Whether it could be dropped and rebuilt without any loss."""
        return not (
            self.in_commit
            or self.queued
            or self.bodies
            or self._slot_waits
            or self._busy
            or self._report_timer is not None
            or self.builder.pending
        )

    @property
    def opaque(self) -> bool:
        """Whether its code cannot run here: the type is not served, or an event is not understood."""
        return self.workflow is None

    def _alert(self, name: str, severity: event_pb2.AlertSeverity.ValueType, message: str) -> None:
        event = self.builder.new()
        event.alert_raised.name = name
        event.alert_raised.severity = severity
        event.alert_raised.message = message
        self.builder.add(event)
        self._alerts.append(Alert(round(self.builder.now * 1e6), name, severity, message))

    def _drop_run(self) -> None:
        for slots in self._slot_waits.values():
            if slots is not None:
                slots.give()
        self._slot_waits = {}
        if self.run is not None:
            self.run.close()
            self.run = None

    def _set_timer(self) -> None:
        wake = None
        if not self.opaque or self.history.cancel:
            wake = next_time(self.history, self.builder.now, self._nobody_asks)
        if wake is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        if self._timer is not None:
            if self._timer_at == wake:
                return
            self._timer.cancel()
        self._timer_at = wake
        self._timer = self.kernel.timers.at(wake, lambda: self.kernel.act(self, self.woken))

    def _nobody_asks(self, key: str) -> bool:
        """Whether a step that is due has nothing in its way: it fell due unseen, between two acts."""
        run = self.run
        if run is None or key not in run.wanted or key in self._slot_waits or self.kernel.draining:
            return False
        return key not in self.bodies or run.wanted[key][0].step.overlap

    # Committing.

    def flush(self) -> None:
        """Send what has gathered to the committer."""
        if self.in_commit or self.gone:
            return
        if self.history.last_sequence >= self.kernel.history_warning:
            self._near_history_limit()
        pending = self.builder.pending
        if not pending and not self._heartbeats and not self._taken and not self._row_differs():
            self._set_timer()
            self.rested = self.kernel.clock.monotonic()
            if self._retried and self.idle:
                self.kernel.try_again(self)
            return
        self.builder.pending = []
        events = [(event.sequence, event.SerializeToString()) for event in pending]
        change = Change(self._next_row(), self.guard, events, final=self.history.final is not None)
        if self._taken:
            change.consumed = tuple(self._taken)
        if self._heartbeats:
            change.heartbeats = tuple(self._heartbeats.values())
        if self._alerts:
            change.alerts = tuple(self._alerts)
        self._sent = Cause(pending, self._effects, self._launches)
        self._effects, self._launches, self._taken, self._heartbeats, self._alerts = [], [], [], {}, []
        self.in_commit = True
        self.kernel.committer.submit(change, self.decided)

    def _row_differs(self) -> bool:
        state = self._state()
        return state.state != self.row.state or state.reason != self.row.reason

    def _state(self) -> WorkflowStatus:
        if self._not_served and not self.history.stopped and self.history.final is None and not self.history.cancel:
            return closing.not_served(self.row.workflow_type)
        if self._held and not self.history.stopped and self.history.final is None and not self.history.cancel:
            return closing.HELD
        wanted = None if self.run is None else self.run.wanted
        return derive_status(self.history, busy=self._busy, slot_waits=len(self._slot_waits), wanted=wanted)

    def _next_row(self) -> Row:
        state, reason, explanation, wake = self._state()
        history = self.history
        final = history.final
        return self.row.advanced(
            state,
            reason,
            explanation,
            history.last_sequence,
            None if wake is None else round(wake * 1e6),
            None if final is None else round(seconds(final.time) * 1e6),
            history.untaken_signals,
        )

    def decided(self, change: Change, outcome: CommitOutcome) -> None:
        """The committer's answer."""
        cause, self._sent = self._sent, _NOTHING
        self.in_commit = False
        try:
            self._go_on_after(change, outcome, cause)
        except BaseException as error:  # noqa: BLE001 - a fault of our own in one workflow must not take the others with it
            self.kernel.fault(self, error)
            self.launch(cause.launches, [])  # It is gone: only their slots are given back.

    def _go_on_after(self, change: Change, outcome: CommitOutcome, cause: Cause) -> None:
        if outcome is CommitOutcome.INBOX_NOT_EMPTY:
            self.in_commit = True
            self.kernel.read_inbox(self, lambda messages: self._resend(change, cause, messages))
            return
        if outcome is not CommitOutcome.COMMITTED:
            self.drop()
            self.launch(cause.launches, [])
            if outcome is CommitOutcome.ID_EXISTS:
                self.kernel.taken(self)
            else:
                self.kernel.lost(self, damaged=outcome is CommitOutcome.DAMAGED)
            return
        fresh = self.guard is None
        self.row = change.row
        self.guard = Guard(change.row.generation, change.row.last_sequence)
        self.kernel.committed(self, change, cause.events, fresh=fresh)
        for effect in cause.effects:
            effect()
        if change.final:
            self.launch(cause.launches, [])
            self.kernel.finished(self, cause.events[-1])
        else:
            self.kernel.go_on(self, cause.launches)

    def _resend(self, change: Change, cause: Cause, messages: list[Message]) -> None:
        """Messages arrived before the end: they come into the history before it, undelivered."""
        final = cause.events.pop()
        taken = list(change.consumed)
        cancelled = bool(self.history.cancel)
        for message in messages:
            if message.id in taken:
                continue
            taken.append(message.id)
            event = None if cancelled and message.kind is InboxKind.CANCEL else closing.undelivered(message, final)
            if event is not None:
                cancelled = cancelled or event.HasField("cancel_requested")
                cause.events.append(event)
                final.sequence += 1
        cause.events.append(final)
        self.history.last_sequence = final.sequence
        change.events = [(event.sequence, event.SerializeToString()) for event in cause.events]
        change.consumed = tuple(taken)
        change.row.last_sequence = final.sequence
        self._sent = cause
        self.kernel.committer.submit(change, self.decided)

    def drop(self) -> None:
        """Let go of it: nothing that is not on disk may take effect any more."""
        self.gone = True
        self._drop_run()
        for timer in (self._timer, self._report_timer):
            if timer is not None:
                timer.cancel()
        for body in list(self.bodies.values()):
            body.abandon()
        launches, self._launches = self._launches, []
        self.launch(launches, [])

    def launch(self, orders: list[Order], ended: list[tuple[Held, Body]]) -> None:
        """Run attempts whose records are on disk, and empty the list; those that end at once are added to ``ended``."""
        raise NotImplementedError

    def ended_at_once(self, body: Body) -> None:
        """Take in what came of an attempt that ended at once."""
        raise NotImplementedError

    def woken(self) -> None:
        """Its timer went off."""
        raise NotImplementedError

    def _near_history_limit(self) -> None:
        """The history is almost as long as it may be."""
        raise NotImplementedError


class Cause(NamedTuple):
    """What a change on its way to the disk has in it, and what follows once it is there."""

    events: list[event_pb2.Event]
    effects: list[Callable[[], None]]
    launches: list[Order]


_NOTHING = Cause([], [], [])
