"""Undo removes what a drive added, and leaves the history as it was before the drive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import History
from tests.fuzz.edits import Leaf, Node, edited_program, programs
from tests.support.scale import scaled
from tests.support.simulation import Simulation, folded, structure_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.v1.event_pb2 import Event

#: The events that workflow code adds.
ADDED = {"timer_started", "signal_awaited", "signal_taken", "call_cancelled", "value_recorded"}

happenings = st.lists(
    st.tuples(st.sampled_from(["well", "well", "well", "badly", "early", "cancel"]), st.integers(0, 20)), max_size=30
)


def history_of(program: Node, happened: list[tuple[str, int]], slots: int) -> list[Event]:
    """Return the events of a program in this world, its newest drive included."""
    life = Simulation(edited_program, (program, []), slots=slots).begin()
    for how, which in happened:
        if life.run.done:
            break
        if how == "cancel":
            if not life.history.cancel:
                life.cancel()
        elif how == "early":
            _signal(life, "st"[which % 2])
        elif life.history.open:
            keys = sorted(life.history.open)
            life.settle(keys[which % len(keys)], fail=how == "badly")
    return life.all_events


def _signal(life: Simulation, name: str) -> None:
    """Add a signal, awaited or not."""
    event = life.builder.new()
    event.signal_received.name = name
    life.builder.add(event)
    life.drive(life.run.signal_recorded, name)


def _added(event: Event) -> bool:
    return event.WhichOneof("detail") in ADDED


@settings(max_examples=scaled(80, 2_000), deadline=None)
@given(program=programs, happened=happenings, slots=st.sampled_from([1, 1_000]))
@example(
    # Two signals arrive before the code waits for them, and each of two waits takes one.
    Node("sequence", (Leaf("sleep"), Leaf("signal", "s"), Leaf("signal", "s"))),
    [("early", 0), ("early", 0), ("well", 0)],
    1,
)
@example(
    # The code cancels a timer, a signal wait and a step without a slot.
    Node(
        "gather",
        (Leaf("sleep"), Leaf("signal", "s"), Leaf("step", "a", 1), Leaf("step", "b", 2)),
    ),
    [("cancel", 0)],
    1,
)
def test_undo_of_any_suffix_that_code_added_gives_the_fold_of_the_prefix(
    program: Node, happened: list[tuple[str, int]], slots: int
) -> None:
    events = history_of(program, happened, slots)
    for end in range(1, len(events) + 1):
        start = end
        while _added(events[start - 1]):
            start -= 1
        history = folded(events[:end])
        for length in range(end - 1, start - 1, -1):
            history.undo(events[length])
            assert structure_of(history) == structure_of(folded(events[:length])), (
                f"{program} {happened}: {[event.WhichOneof('detail') for event in events[length:end]]}"
            )
        # It can continue from there.
        for event in events[start:end]:
            history.apply(event)
        assert structure_of(history) == structure_of(folded(events[:end]))


def journal_with(*fills: Callable[[Event], Any]) -> HistoryBuilder:
    """Return a builder with events that are filled in like this."""
    builder = HistoryBuilder(History())
    for fill in fills:
        event = builder.new()
        fill(event)
        builder.add(event)
    return builder


def _started(event: Event) -> None:
    event.workflow_started.SetInParent()


def _signal_received(event: Event) -> None:
    event.signal_received.name = "s"


def _signal_taken(event: Event) -> None:
    event.signal_taken.key = "signal:s"
    event.signal_taken.signal_sequence = 2


def _timer_started(event: Event) -> None:
    event.timer_started.key = "sleep"


def test_undo_to_a_length_keeps_the_events_before_it() -> None:
    builder = journal_with(_started, _signal_received, _signal_taken, _timer_started)
    builder.undo_to(2)
    assert [event.WhichOneof("detail") for event in builder.pending] == ["workflow_started", "signal_received"]
    assert structure_of(builder.history) == structure_of(folded(builder.pending))
    assert builder.new().sequence == 3


def test_undo_of_a_taken_signal_puts_it_before_those_that_came_later() -> None:
    builder = journal_with(_started, _signal_received, _signal_received, _signal_taken)
    builder.undo_to(3)
    assert list(builder.history.mailbox["s"]) == [2, 3]


def test_undo_of_a_close_opens_the_call_again_at_the_end_of_the_open_ones() -> None:
    def cancelled(event: Event) -> None:
        event.call_cancelled.key = "sleep"

    def other_timer(event: Event) -> None:
        event.timer_started.key = "sleep#2"

    builder = journal_with(_started, _timer_started, other_timer, cancelled)
    builder.undo_to(3)
    # The only difference from the fold of the earlier events. Nothing depends on it.
    assert list(builder.history.open) == ["sleep#2", "sleep"]
    assert list(folded(builder.pending).open) == ["sleep", "sleep#2"]
    assert structure_of(builder.history) == structure_of(folded(builder.pending))
