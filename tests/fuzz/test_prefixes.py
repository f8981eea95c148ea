"""Histories: any prefix of any history replays to the decisions that the rest of it records."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow.v1 import event_pb2, failure_pb2
from mendflow_server.execution import closing
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import History
from mendflow_server.replay.workflow_runner import WorkflowRunner
from tests.fuzz.acting import ACTS, act, let_end
from tests.fuzz.forms import fuzz
from tests.fuzz.programs import SIGNALS, programs, run_program
from tests.fuzz.replaying import LIMIT, faults_of_prefixes, replayed
from tests.support.servers import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mendflow_server.history.state import CallRecord
    from tests.support.servers import Server

#: What happens next: an open call is settled (which one, and how), a signal comes, an operator acts, or a death.
happenings = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["well"] * 6,
                *["badly", "retried", "retried", "paused"],
                *["signal", "signal", "cancel", "resume", "resume"],
                *["death", "death", "quarantine"],
            ]
        ),
        st.integers(0, 20),
    ),
    max_size=40,
)
#: The acts that end it from outside.
ends = st.sampled_from(["", "", "", "terminate"])


class World:
    """A run in a world that the test decides. It writes the history as the engine does."""

    def __init__(self, program: Any) -> None:
        self.builder = HistoryBuilder(History())
        self.builder.now = 1_000.0
        event = self.builder.new()
        event.workflow_started.workflow_type = run_program.name
        self.builder.add(event)
        self._program = program
        #: None while it is stopped.
        self.run: WorkflowRunner | None = None
        #: For each rest: how many events there were, what was awaited, what was being cancelled.
        self.rests: list[tuple[int, set[str], set[str]]] = []
        self._withdrawn: set[str] = set()
        self._continue()

    @property
    def events(self) -> list[event_pb2.Event]:
        return self.builder.pending

    @property
    def done(self) -> bool:
        """Whether the code or the workflow has ended."""
        return self.builder.history.final is not None or (self.run is not None and self.run.done)

    def _continue(self) -> None:
        """Replay the history, and continue."""
        self.run = WorkflowRunner(run_program, self.builder, self._program, payload_limit=LIMIT)
        self._drove(self.run, self.run.begin)

    def _drove(self, run: WorkflowRunner, drive: Any, *what: Any) -> None:
        history = self.builder.history
        drive(*what)
        self._withdrawn |= set(run.unwanted)
        run.unwanted.clear()
        asked, run.newly_wanted = run.newly_wanted, []
        for key in asked:
            if key in run.wanted:
                self._want(run, key)
        self._withdrawn &= set(history.open)
        self.rests.append((len(self.events), set(run.wanted), set(self._withdrawn)))

    def _want(self, run: WorkflowRunner, key: str) -> None:
        """Start a step's next attempt, if none is open and nothing prevents it."""
        record = self.builder.history.open.get(key)
        if record is not None and (record.started is not None or record.paused):
            return
        event = self.builder.new()
        event.attempt_started.step_key = key
        event.attempt_started.attempt = 1 if record is None else record.attempt + 1
        if record is None:
            call, payload = run.wanted[key]
            event.attempt_started.step_name = call.step.name
            event.attempt_started.input.CopyFrom(payload)
        self.builder.add(event)

    def happen(self, how: str, which: int) -> None:
        """Make something happen, if it can."""
        self.builder.now += 1
        history = self.builder.history
        if how == "cancel":
            self._cancel()
        elif how == "signal":
            event = self.builder.new()
            event.signal_received.name = SIGNALS[which % len(SIGNALS)]
            event.signal_received.data.json = json.dumps(f"signal {event.sequence}")
            self.builder.add(event)
            if self.run is not None:
                self._drove(self.run, self.run.signal_recorded, event.signal_received.name)
        elif how == "resume":
            if history.stopped:
                self._add(lambda event: event.workflow_resumed.SetInParent())
                self._continue()
        elif how in ("death", "quarantine"):
            self._die(which if how == "quarantine" else None)
        elif how == "terminate":
            self._stop()
            closing.terminated(self.builder, event_pb2.WorkflowTerminated(actor="test"))
        elif history.open:
            keys = sorted(history.open)
            self._settle(keys[which % len(keys)], how)

    def _add(self, fill: Callable[[event_pb2.Event], None]) -> None:
        event = self.builder.new()
        fill(event)
        self.builder.add(event)

    def _stop(self) -> None:
        if self.run is not None:
            self.run.close()
            self.run = None

    def _cancel(self) -> None:
        history = self.builder.history
        if history.cancel:
            return
        self._add(lambda event: event.cancel_requested.SetInParent())
        if history.stopped:
            # Quarantined: its code must not run, so there is no clean-up.
            closing.cancelled(self.builder, cut=list(history.open), deadline=False)
        elif self.run is not None:
            self._drove(self.run, self.run.cancel_recorded)
        else:
            self._continue()

    def _die(self, guilty: int | None) -> None:
        """End the process. The next one may find an attempt ``guilty`` and keep it from running."""
        history = self.builder.history
        interrupted = history.open_attempts()
        if history.stopped and not interrupted:
            return
        self._stop()
        self._withdrawn.clear()
        self._add(lambda event: event.workflow_recovered.SetInParent())
        for record in interrupted:
            quarantined = (
                guilty is not None and not history.stopped and record is interrupted[guilty % len(interrupted)]
            )
            event = self.builder.new()
            detail = event.attempt_failed
            detail.step_key, detail.attempt = record.key, record.attempt
            detail.failure.kind = failure_pb2.FAILURE_KIND_LOST
            detail.decision.action = (
                failure_pb2.RETRY_ACTION_QUARANTINE_WORKFLOW if quarantined else failure_pb2.RETRY_ACTION_RETRY
            )
            self.builder.add(event)
            if quarantined:
                self._add(lambda event: event.workflow_quarantined.SetInParent())
        if not history.stopped:
            self._continue()

    def _settle(self, key: str, how: str) -> None:
        """Give an open call an outcome, or a step another attempt."""
        record = self.builder.history.open[key]
        event = self.builder.new()
        if record.kind != "step":
            if self.run is None or (record.kind == "signal" and record.wake_time is None):
                return  # No time passes for a stopped workflow.
            if record.kind == "timer":
                event.timer_fired.key = key
            else:
                event.signal_timed_out.key = key
        elif record.started is None:
            return
        elif how == "well":
            event.attempt_succeeded.step_key = key
            event.attempt_succeeded.output.json = (
                str(event.sequence) if record.name == "other" else f'"{event.sequence}"'
            )
        else:
            self._fail(event, record, how)
            return
        self.builder.add(event)
        if self.run is not None:
            self._drove(self.run, self.run.outcome_recorded, key)

    def _fail(self, event: event_pb2.Event, record: CallRecord, how: str) -> None:
        detail = event.attempt_failed
        detail.step_key, detail.attempt = record.key, record.attempt
        detail.failure.message = f"failure {event.sequence}"
        if record.key in self._withdrawn:
            detail.decision.action = failure_pb2.RETRY_ACTION_CANCEL_STEP
        else:
            detail.decision.action = _ACTIONS[how]
        self.builder.add(event)
        run = self.run
        if run is not None and record.outcome is not None:
            self._drove(run, run.outcome_recorded, record.key)
        elif record.paused and not self.builder.history.stopped:
            self._add(lambda event: event.workflow_paused.SetInParent())
            self._stop()
        elif run is not None and not record.paused:
            self._want(run, record.key)
            self.rests.append((len(self.events), set(run.wanted), set(self._withdrawn)))


_ACTIONS = {
    "badly": failure_pb2.RETRY_ACTION_FAIL_STEP,
    "retried": failure_pb2.RETRY_ACTION_RETRY,
    "paused": failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW,
}


@fuzz(350, 20_000)
@given(program=programs, happened=happenings, end=ends)
def test_every_prefix_of_a_simulated_history_replays_to_the_same_decisions(
    program: Any, happened: list[tuple[str, int]], end: str
) -> None:
    world = World(program)
    for how, which in (*happened, (end, 0)):
        if world.done or not how:
            break
        world.happen(how, which)
    events = world.events
    _end(world)
    if world.run is not None:
        # Otherwise the collector would do it in the middle of another run.
        world.run.close()
    _check_prefixes(program, events)
    for length, wanted, withdrawn in world.rests:
        again = replayed(run_program, program, events[:length])
        assert set(again.wanted) == wanted
        assert set(again.unwanted) == withdrawn
        again.close()


def _check_prefixes(program: Any, events: list[event_pb2.Event]) -> None:
    wrong = faults_of_prefixes(run_program, program, events)
    assert not wrong, "\n".join([_report(program, events), *wrong])


def _report(program: Any, events: list[event_pb2.Event]) -> str:
    return "\n".join([json.dumps(program), *(f"{event.sequence} {str(event)[-300:]!r}" for event in events)])


def _end(world: World) -> None:
    """Write the final event, if the code has ended."""
    run = world.run
    if run is None or not run.done:
        return
    event = world.builder.new()
    if run.error is None:
        event.workflow_succeeded.output.CopyFrom(run.workflow.output_type.encode(run.value))
    elif isinstance(run.error, asyncio.CancelledError) and run.history.cancel:
        event.workflow_cancelled.SetInParent()
    else:
        event.workflow_failed.failure.message = str(run.error)
    world.builder.add(event)


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncIterator[Server]:
    """Serve, and evict waiting workflows at once, so that the server replays all the time."""
    async with serving(tmp_path, definitions={run_program.name: run_program}, evict_after=0.01) as server:
        yield server


@fuzz(90, 3_000)
@given(program=programs, sent=st.lists(st.sampled_from([*SIGNALS, *ACTS]), max_size=8))
async def test_every_prefix_of_a_real_history_replays_to_the_same_decisions(
    program: Any, sent: list[str], forgetful: Server
) -> None:
    handle = await forgetful.client.start(run_program, program)
    await act(handle, sent)
    ended = await let_end(handle)
    events = [event async for event in handle.events()]
    assert ended, _report(program, events)
    _check_prefixes(program, events)
