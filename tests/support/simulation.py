"""A run of workflow code in which the test decides what the outside world does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mendflow.v1 import failure_pb2
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import CallRecord, History
from mendflow_server.replay.workflow_runner import NonDeterminism, WorkflowRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow import Workflow
    from mendflow.v1.event_pb2 import Event

LIMIT = 1 << 20


def folded(events: list[Event]) -> History:
    """Return the fold of these events."""
    history = History()
    for event in events:
        history.apply(event)
    return history


def structure_of(history: History) -> dict[str, Any]:
    """Return everything that a history holds, for comparisons.

    It leaves out the order of the open calls: an undo puts a call that it opens again at their end.
    """

    def of_call(record: CallRecord) -> dict[str, Any]:
        return {slot: getattr(record, slot) for slot in CallRecord.__slots__}

    structure = {slot: getattr(history, slot) for slot in History.__slots__}
    structure["calls"] = [(key, of_call(record)) for key, record in history.calls.items()]
    structure["open"] = {key: of_call(record) for key, record in history.open.items()}
    structure["open of calls"] = all(history.calls[key] is record for key, record in history.open.items())
    structure["mailbox"] = {name: list(sequences) for name, sequences in history.mailbox.items()}
    return structure


class Simulation:
    """A run in which the test decides what happens. It records starts, and outcomes in the order of `settle`."""

    def __init__(
        self,
        definition: Workflow[Any, Any],
        argument: object = None,
        events: list[Any] | None = None,
        *,
        slots: int = 1_000,
    ) -> None:
        #: How many attempts may run at the same time.
        self.slots = slots
        #: Why the run was stopped, or empty.
        self.pause = ""
        self.history = History()
        self.builder = HistoryBuilder(self.history)
        self.builder.now = 1_000.0
        if events is None:
            event = self.builder.new()
            event.workflow_started.workflow_type = definition.name
            self.builder.add(event)
        for event in events or []:
            self.history.apply(event)
        self.events = list(events or [])
        self.run = WorkflowRunner(definition, self.builder, argument, payload_limit=LIMIT)

    def begin(self) -> Simulation:
        self.drive(self.run.begin)
        return self

    def drive(self, call: Callable[..., None], *arguments: object) -> None:
        """Drive the code as the engine does: undo the drive and raise `NonDeterminism` if the code cannot continue."""
        before = len(self.builder.pending)
        withdrawn = list(self.run.unwanted)
        try:
            call(*arguments)
        except NonDeterminism as error:
            self.builder.undo_to(before)
            self.run.unwanted[:] = withdrawn
            self.run.close()
            self.pause = str(error)
            raise
        self.start_wanted()

    def start_wanted(self) -> None:
        for key in list(self.run.wanted):
            if key not in self.history.open and len(self.history.open_attempts()) < self.slots:
                event = self.builder.new()
                event.attempt_started.step_key = key
                event.attempt_started.step_name = self.run.wanted[key][0].step.name
                event.attempt_started.attempt = 1
                event.attempt_started.input.CopyFrom(self.run.wanted[key][1])
                self.builder.add(event)

    def settle(self, key: str, *, fail: bool = False) -> None:
        """Give an open call its outcome. No timer fires while the run is stopped."""
        record = self.history.open[key]
        if self.pause and record.kind == "timer":
            return
        self.builder.now += 1
        event = self.builder.new()
        cancelled = key in self.run.unwanted
        if record.kind == "timer":
            event.timer_fired.key = key
        elif record.kind == "signal":
            event.signal_received.name = record.name
            event.signal_received.data.json = json.dumps(f"signal {event.sequence}")
        elif cancelled or fail:
            event.attempt_failed.step_key = key
            event.attempt_failed.failure.message = f"failure {event.sequence}"
            event.attempt_failed.decision.action = (
                failure_pb2.RETRY_ACTION_CANCEL_STEP if cancelled else failure_pb2.RETRY_ACTION_FAIL_STEP
            )
            if cancelled:
                self.run.unwanted.remove(key)
        else:
            event.attempt_succeeded.step_key = key
            event.attempt_succeeded.attempt = 1
            event.attempt_succeeded.output.json = json.dumps(f"{key} {event.sequence}")
        self.builder.add(event)
        if self.pause:
            return
        if record.kind == "signal":
            self.drive(self.run.signal_recorded, record.name)
        else:
            self.drive(self.run.outcome_recorded, key)

    def cancel(self) -> None:
        """Record a cancel request, and deliver it."""
        event = self.builder.new()
        event.cancel_requested.actor = "test"
        self.builder.add(event)
        if not self.pause:
            self.drive(self.run.cancel_recorded)

    @property
    def all_events(self) -> list[Any]:
        return self.events + self.builder.pending

    @property
    def outcome(self) -> tuple[bool, Any, str]:
        return self.run.done, self.run.value, repr(self.run.error)
