"""A program whose code changes, in a world that the test decides, and what may happen in that world."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from mendflow_server.replay.workflow_runner import NonDeterminism
from tests.fuzz.edits import Node, edited_program, effects_of
from tests.fuzz.opened_calls import opened_key, particulars
from tests.support.simulation import Simulation, folded, structure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow.v1.event_pb2 import Event

#: What happens next, and to which of the open calls.
Happening = tuple[str, int]
_HOWS = (*["well"] * 8, "badly", "signal", "replay", "replay", "cancel")


def happenings(most: int, *without: str) -> st.SearchStrategy[list[Happening]]:
    hows = [how for how in _HOWS if how not in without]
    return st.lists(st.tuples(st.sampled_from(hows), st.integers(0, 20)), max_size=most)


#: How many attempts may run at the same time. A step without a slot is requested but not recorded.
slots = st.sampled_from([1, 2, 1_000])
#: More turns than any of these programs takes.
MANY = 400


class World:
    """A program whose code changes, in a world that the test decides."""

    def __init__(self, program: Node, *, slots: int = 1_000) -> None:
        self.slots = slots
        self.story: list[str] = []
        self.deployed: list[Node] = []
        self.deploy(program)

    def deploy(self, program: Node, events: Sequence[Event] | None = None) -> None:
        """Replay the history with this code, and continue."""
        self.deployed.append(program)
        self.story.append(f"deploy {program}")
        self._begin(None if events is None else list(events))

    def _begin(self, events: list[Event] | None) -> None:
        self.asked: list[int] = []
        self.life = Simulation(edited_program, (self.deployed[-1], self.asked), events, slots=self.slots)
        self._drive(self.life.begin, 0)

    @property
    def events(self) -> list[Event]:
        return self.life.all_events

    @property
    def done(self) -> bool:
        return self.life.run.done and not self.life.pause

    @property
    def pause(self) -> str:
        return self.life.pause

    def report(self) -> str:
        """Return the whole story as text."""
        events = (f"{event.sequence:4} {event.WhichOneof('detail')} {particulars(event)}" for event in self.events)
        return "\n".join(["", *self.story, *events, self.pause or str(self.life.outcome)])

    def _drive(self, act: Callable[[], Any], added: int) -> None:
        """Run the act, which itself adds ``added`` events. When the drive pauses, its own events are undone."""
        before, paused = list(self.events), bool(added and self.pause)
        with contextlib.suppress(NonDeterminism):
            act()
        if self.pause and not paused:
            self.story.append("paused")
            assert self.events[: len(before)] == before, self.report()
            assert len(self.events) == len(before) + added, f"a pause records nothing of the drive{self.report()}"
            assert structure_of(self.life.history) == structure_of(folded(self.events)), self.report()
            self._check_explanation()

    def _check_explanation(self) -> None:
        """Check that the explanation names a call by its kind, its key and the event that opened it."""
        named = re.findall(r"(?:step|timer|signal wait|withdrawn call) (\S+)(?: \(\w+\))? \(event (\d+)\)", self.pause)
        assert named, self.report()
        for key, sequence in named:
            assert opened_key(self.events[int(sequence) - 1]) == key, self.report()

    def happen(self, how: str, which: int) -> None:
        """Make something happen, if it can."""
        life = self.life
        if self.done:
            return
        if how == "replay":
            if not self.pause:
                self.story.append("replay")
                self._begin(self.events)
            return
        if how == "cancel":
            if not life.history.cancel:
                self.story.append("cancel")
                self._drive(life.cancel, 1)
            return
        keys = sorted(
            key for key, record in life.history.open.items() if (how == "signal") == (record.kind == "signal")
        )
        if keys:
            self.settle(keys[which % len(keys)], how)

    def settle(self, key: str, how: str) -> None:
        """End an open call."""
        self.story.append(f"{key} ends {how}")
        self._drive(lambda: self.life.settle(key, fail=how == "badly"), 1)

    def live(self, happened: Sequence[Happening]) -> None:
        """Make these things happen, unless one would end the program."""
        for how, which in happened:
            events, length = list(self.events), len(self.story)
            self.happen(how, which)
            if self.done:
                # This moment comes later.
                self.story[length:] = ["…"]
                self._begin(events)
                return

    def end(self) -> None:
        """Make every call succeed until the workflow has ended or paused."""
        for turn in range(MANY):
            if self.done or self.pause:
                return
            assert self.life.history.open, f"it waits for nothing{self.report()}"
            self.happen("signal" if turn % 3 == 2 else "well", turn)
        pytest.fail(f"it does not end{self.report()}")

    @property
    def keys(self) -> dict[int, list[str]]:
        """The keys under which each effect has started, one for each start."""
        keys: dict[int, list[str]] = {}
        for event in self.events:
            if event.HasField("attempt_started"):
                detail = event.attempt_started
                keys.setdefault(json.loads(detail.input.json)["effect"], []).append(detail.step_key)
        return keys

    def check_effects(self) -> None:
        """Check that no effect that occurs once in each program has started twice."""
        doubled = {effect for program in self.deployed for effect, count in effects_of(program).items() if count > 1}
        twice = {effect: keys for effect, keys in self.keys.items() if len(keys) > 1 and effect not in doubled}
        assert not twice, f"{twice}{self.report()}"
