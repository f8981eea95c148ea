"""Histories: any prefix of any history replays to the decisions that the rest of it records."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow import MendflowError
from mendflow.v1 import event_pb2, failure_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow_server.history import History
from mendflow_server.journal import Journal
from mendflow_server.run import Run
from tests.conftest import serving
from tests.fuzz.forms import fuzz
from tests.fuzz.programs import SIGNALS, programs, run_program
from tests.fuzz.replaying import LIMIT, faults_of_prefix, replayed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Server

#: What happens next: an open call is settled (which one, and how), or a signal comes, or a cancel.
happenings = st.lists(
    st.tuples(
        st.sampled_from(["well", "well", "well", "well", "badly", "retried", "signal", "signal", "cancel"]),
        st.integers(0, 20),
    ),
    max_size=40,
)


class World:
    """A run, and an outside world that the test decides: it writes the history as the engine does."""

    def __init__(self, program: Any) -> None:
        self.journal = Journal(History())
        self.journal.now = 1_000.0
        event = self.journal.new()
        event.workflow_started.workflow_type = run_program.name
        self.journal.add(event)
        self.run = Run(run_program, self.journal, program, payload_limit=LIMIT)
        #: At rest: how many events there were, what was awaited, what was being cancelled.
        self.rests: list[tuple[int, set[str], set[str]]] = []
        self._withdrawn: set[str] = set()
        self._drove(self.run.begin)

    @property
    def events(self) -> list[event_pb2.Event]:
        return self.journal.pending

    def _drove(self, drive: Any, *what: Any) -> None:
        run, history = self.run, self.journal.history
        drive(*what)
        self._withdrawn |= set(run.unwanted)
        run.unwanted.clear()
        asked, run.asked = run.asked, []
        for key in asked:
            if key in run.wanted and key not in history.calls:
                self._start(key, 1)
        self._withdrawn &= set(history.open)
        self.rests.append((len(self.events), set(run.wanted), set(self._withdrawn)))

    def _start(self, key: str, number: int) -> None:
        event = self.journal.new()
        event.attempt_started.step_key = key
        event.attempt_started.attempt = number
        if number == 1:
            call, payload = self.run.wanted[key]
            event.attempt_started.step_name = call.step.name
            event.attempt_started.input.CopyFrom(payload)
        self.journal.add(event)

    def happen(self, how: str, which: int) -> None:
        """Let something happen, if it can."""
        self.journal.now += 1
        history = self.journal.history
        if how == "cancel":
            if not history.cancel:
                event = self.journal.new()
                event.cancel_requested.actor = "test"
                self.journal.add(event)
                self._drove(self.run.cancel_recorded)
        elif how == "signal":
            event = self.journal.new()
            event.signal_received.name = SIGNALS[which % len(SIGNALS)]
            event.signal_received.data.json = json.dumps(f"signal {event.sequence}")
            self.journal.add(event)
            self._drove(self.run.signal_recorded, event.signal_received.name)
        elif history.open:
            keys = sorted(history.open)
            self._settle(keys[which % len(keys)], how)

    def _settle(self, key: str, how: str) -> None:
        """Give an open call an outcome, or a step another attempt."""
        record = self.journal.history.open[key]
        event = self.journal.new()
        if record.kind == "timer":
            event.timer_fired.key = key
        elif record.kind == "signal":
            if record.wake_time is None:
                return
            event.signal_timed_out.key = key
        elif how == "well":
            event.attempt_succeeded.step_key = key
            name = record.name
            event.attempt_succeeded.output.json = str(event.sequence) if name == "other" else f'"{event.sequence}"'
        else:
            self._fail(event, key, how)
            if event.attempt_failed.decision.action == failure_pb2.RETRY_ACTION_RETRY:
                self.journal.add(event)
                self._start(key, record.attempt + 1)
                self.rests.append((len(self.events), set(self.run.wanted), set(self._withdrawn)))
                return
        self.journal.add(event)
        self._drove(self.run.outcome_recorded, key)

    def _fail(self, event: event_pb2.Event, key: str, how: str) -> None:
        detail = event.attempt_failed
        detail.step_key = key
        detail.failure.message = f"failure {event.sequence}"
        if key in self._withdrawn:
            detail.decision.action = failure_pb2.RETRY_ACTION_CANCEL_STEP
        elif how == "retried":
            detail.decision.action = failure_pb2.RETRY_ACTION_RETRY
        else:
            detail.decision.action = failure_pb2.RETRY_ACTION_FAIL_STEP


@fuzz(250, 20_000)
@given(program=programs, happened=happenings)
def test_every_prefix_of_a_simulated_history_replays_to_the_same_decisions(
    program: Any, happened: list[tuple[str, int]]
) -> None:
    world = World(program)
    for how, which in happened:
        if world.run.done:
            break
        world.happen(how, which)
    events = world.events
    _end(world)
    # Or the collector would, in the midst of another run.
    world.run.close()
    _check_prefixes(program, events)
    for length, wanted, withdrawn in world.rests:
        again = replayed(run_program, program, events[:length])
        assert set(again.wanted) == wanted
        assert set(again.unwanted) == withdrawn
        again.close()


def _check_prefixes(program: Any, events: list[event_pb2.Event]) -> None:
    wrong = []
    for length in range(1, len(events)):
        wrong += faults_of_prefix(run_program, program, events, length)
    assert not wrong, "\n".join([_told(program, events), *wrong])


def _told(program: Any, events: list[event_pb2.Event]) -> str:
    return "\n".join([json.dumps(program), *(f"{event.sequence} {str(event)[-300:]!r}" for event in events)])


def _end(world: World) -> None:
    """Write the final event, if the code has ended."""
    run = world.run
    if not run.done:
        return
    event = world.journal.new()
    if run.error is None:
        event.workflow_succeeded.output.CopyFrom(run.workflow.output_type.encode(run.value))
    elif isinstance(run.error, asyncio.CancelledError) and run.history.cancel:
        event.workflow_cancelled.SetInParent()
    else:
        event.workflow_failed.failure.message = str(run.error)
    world.journal.add(event)


@pytest.fixture
async def forgetful(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that drops what waits from memory at once, so that it replays all the time."""
    async with serving(tmp_path, definitions={run_program.name: run_program}, evict_after=0.01) as server:
        yield server


@fuzz(90, 3_000)
@given(program=programs, sent=st.lists(st.sampled_from([*SIGNALS, "pause", "pause", "cancel"]), max_size=8))
async def test_every_prefix_of_a_real_history_replays_to_the_same_decisions(
    program: Any, sent: list[str], forgetful: Server
) -> None:
    handle = await forgetful.client.start(run_program, program)
    for what in sent:
        with contextlib.suppress(MendflowError):
            if what == "pause":
                await asyncio.sleep(0.004)  # Another interleaving, not a wait for anything.
            elif what == "cancel":
                await handle.cancel()
            else:
                await handle.signal(what, what)
    ended = await _let_end(handle)
    events: list[event_pb2.Event] = []
    token = ""
    while True:
        page = await forgetful.stub.ListEvents(
            ws.ListEventsRequest(workflow_id=handle.id, page_size=1000, page_token=token)
        )
        events += page.events
        token = page.next_page_token
        if not token:
            break
    assert ended, _told(program, events)
    _check_prefixes(program, events)


async def _let_end(handle: Any) -> bool:
    """Send what it may still wait for, whenever it has come to rest, until it has ended; False: it does not."""
    seen = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while not (found := await handle.get()).HasField("end_time"):
                if found.last_sequence == seen:
                    for name in SIGNALS:
                        with contextlib.suppress(MendflowError):
                            await handle.signal(name, name)
                seen = found.last_sequence
                await asyncio.sleep(0.005)
            return True
    return False
