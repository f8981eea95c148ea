"""A run of workflow code whose outside world is decided by the test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mendflow.v1 import failure_pb2
from mendflow_server.history import History
from mendflow_server.journal import Journal
from mendflow_server.run import NonDeterminism, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow import Workflow

LIMIT = 1 << 20


class Simulation:
    """A run whose outside world is decided by the test: it records starts, and outcomes in the order asked for."""

    def __init__(
        self, definition: Workflow[Any, Any], argument: object = None, events: list[Any] | None = None
    ) -> None:
        self.history = History()
        self.journal = Journal(self.history)
        self.journal.now = 1_000.0
        if events is None:
            event = self.journal.new()
            event.workflow_started.workflow_type = definition.name
            self.journal.add(event)
        for event in events or []:
            self.history.apply(event)
        self.events = list(events or [])
        self.run = Run(definition, self.journal, argument, payload_limit=LIMIT)

    def begin(self) -> Simulation:
        self.drive(self.run.begin)
        return self

    def drive(self, call: Callable[..., None], *arguments: object) -> None:
        """Drive the code as the engine does: what cannot go on is taken back. Raises `NonDeterminism`."""
        before = len(self.journal.pending)
        try:
            call(*arguments)
        except NonDeterminism:
            self.journal.undo_to(before)
            self.run.close()
            raise
        self.start_wanted()

    def start_wanted(self) -> None:
        for key in list(self.run.wanted):
            if key not in self.history.open:
                event = self.journal.new()
                event.attempt_started.step_key = key
                event.attempt_started.step_name = self.run.wanted[key][0].step.name
                event.attempt_started.attempt = 1
                event.attempt_started.input.CopyFrom(self.run.wanted[key][1])
                self.journal.add(event)

    def settle(self, key: str, *, fail: bool = False) -> None:
        """Give an open call its outcome."""
        record = self.history.open[key]
        self.journal.now += 1
        event = self.journal.new()
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
        self.journal.add(event)
        if record.kind == "signal":
            self.drive(self.run.signal_recorded, record.name)
        else:
            self.drive(self.run.outcome_recorded, key)

    @property
    def all_events(self) -> list[Any]:
        return self.events + self.journal.pending

    @property
    def outcome(self) -> tuple[bool, Any, str]:
        return self.run.done, self.run.value, repr(self.run.error)
