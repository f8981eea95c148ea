"""Code that changes while its workflows are open: after any edit, no effect starts under two keys."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.replay.workflow_runner import NonDeterminism
from tests.fuzz.acting import PATIENCE, act
from tests.fuzz.edits import (
    ALL_EDITS,
    DEPLOYED,
    LINE_EDITS,
    RAN,
    SIGNALS,
    Leaf,
    Node,
    deployed_program,
    edited,
    edited_program,
    edits_of,
    effects_of,
    gaps_of,
    leaves_of,
    lines,
    programs,
    put_in,
    unmarked,
)
from tests.fuzz.forms import fuzz
from tests.support.promises import read_store
from tests.support.servers import serving
from tests.support.simulation import Simulation, folded, structure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mendflow import WorkflowHandle
    from mendflow.v1.event_pb2 import Event
    from tests.fuzz.edits import Edit, Part, Place

#: What happens next, and to which of the open calls.
Happening = tuple[str, int]

_HOWS = (*["well"] * 8, "badly", "signal", "replay", "replay", "cancel")


def happenings(most: int, *without: str) -> st.SearchStrategy[list[Happening]]:
    hows = [how for how in _HOWS if how not in without]
    return st.lists(st.tuples(st.sampled_from(hows), st.integers(0, 20)), max_size=most)


#: How many attempts may run at the same time. A step without a slot is requested but not recorded.
slots = st.sampled_from([1, 2, 1_000])
#: The events that open a call, each with the field of its key.
_OPENS = {
    "attempt_started": "step_key",
    "timer_started": "key",
    "signal_awaited": "key",
    "signal_taken": "key",
    "call_cancelled": "key",
}
_BY_CODE = {*_OPENS, "value_recorded"}
#: More turns than any of these programs takes.
MANY = 400


@pytest.fixture
def seen() -> Iterator[Counter[str]]:
    """Count what the examples reached. Everything that a test counts must happen in some example."""
    counts: Counter[str] = Counter()
    yield counts
    assert counts
    assert all(counts.values()), counts


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
        events = (f"{event.sequence:4} {event.WhichOneof('detail')} {_particulars(event)}" for event in self.events)
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
            assert _opened(self.events[int(sequence) - 1]) == key, self.report()

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


def _opened(event: Event) -> str:
    """Return the key of the call that an event opens, or an empty string."""
    kind = event.WhichOneof("detail") or ""
    return str(getattr(getattr(event, kind), _OPENS[kind])) if kind in _OPENS else ""


def _particulars(event: Event) -> str:
    return " ".join(str(getattr(event, event.WhichOneof("detail") or "")).split())[:120]


def opened_by(events: Sequence[Event]) -> set[str]:
    """Return the keys of all calls that these events record."""
    return {key for event in events if (key := _opened(event))}


# --- any edit --------------------------------------------------------------------------------------


@fuzz(600, 60_000)
@given(
    program=programs,
    slots=slots,
    first=happenings(14),
    rounds=st.lists(st.tuples(edits_of(*ALL_EDITS), happenings(10)), min_size=1, max_size=2),
)
def test_any_edits_start_no_effect_under_two_keys_and_a_rollback_continues(
    program: Node,
    slots: int,
    first: list[Happening],
    rounds: list[tuple[list[Edit], list[Happening]]],
    seen: Counter[str],
) -> None:
    world = World(program, slots=slots)
    world.live(first)
    assert not world.pause, f"unedited code pauses{world.report()}"
    known = opened_by(world.events)
    changed = program
    for number, (edits, happened) in enumerate(rounds, 1):
        changed = edited(changed, edits, fresh=100 * number)
        world.story.append(f"edits {edits}")
        world.deploy(changed, world.events)
        world.live(happened)
        seen.update(paused=bool(world.pause), continued=not world.pause)
        world.check_effects()
        seen.update(cancelled=bool(world.life.history.cancel and world.pause))
    new = opened_by(world.events) - known
    ended = World(changed, slots=slots)
    ended.story, ended.deployed = list(world.story), list(world.deployed)
    ended.deploy(changed, world.events)
    ended.end()
    ended.check_effects()
    was_paused = bool(world.pause)
    world.deploy(program, world.events)
    world.end()
    world.check_effects()
    if not new:
        assert not world.pause, f"a rollback pauses{world.report()}"
        assert world.done
    seen.update(rolled_back_from_pause=was_paused and world.done, rollback_paused=bool(world.pause))


@fuzz(250, 20_000)
@given(program=programs, slots=slots, happened=happenings(30))
def test_unedited_code_is_replayed_at_any_rest_never_pauses(
    program: Node, slots: int, happened: list[Happening], seen: Counter[str]
) -> None:
    world = World(program, slots=slots)
    for how, which in happened:
        world.happen(how, which)
        again = World(program, slots=slots)
        again.deploy(program, world.events)
        assert not again.pause, again.report()
        assert again.events == world.events, f"a replay of what was at rest decides nothing{again.report()}"
        assert set(again.life.run.wanted) == set(world.life.run.wanted), again.report()
    world.end()
    assert not world.pause, world.report()
    world.check_effects()
    seen.update(ended=world.done, cancelled=bool(world.life.history.cancel))


# --- edits that never pause ------------------------------------------------------------------------


@fuzz(200, 20_000)
@given(
    program=programs,
    slots=slots,
    first=happenings(14),
    edits=edits_of("append"),
    then=happenings(10),
)
def test_an_edit_after_everything_recorded_never_pauses(
    program: Node, slots: int, first: list[Happening], edits: list[Edit], then: list[Happening], seen: Counter[str]
) -> None:
    world = World(program, slots=slots)
    world.live(first)
    world.deploy(edited(program, edits, fresh=100), world.events)
    world.live(then)
    world.end()
    assert not world.pause, world.report()
    world.check_effects()
    seen.update(appended_ran=any(effect >= 100 for effect in world.keys))


def insert_marked(program: Node, where: Sequence[tuple[int, str]], fresh: int) -> Node:
    """Insert marked calls where the code runs on one strand: not in a branch of a gather."""
    part: Part = program
    for number, (gap, word) in enumerate(where, fresh):
        new = Leaf(word, {"step": "n", "signal": "u"}.get(word, ""), number, key=f"k{number}", inserted=True)
        gaps = [each for each in gaps_of(part, ("sequence",)) if not _in_gather(part, each)]
        part = put_in(part, gaps[gap % len(gaps)], new)
    assert isinstance(part, Node)
    return part


def _in_gather(part: Part, path: Place) -> bool:
    if not path or isinstance(part, Leaf):
        return False
    return part.word in ("gather", "settled") or (
        path[0] < len(part.parts) and _in_gather(part.parts[path[0]], path[1:])
    )


inserts = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["step", "step", "sleep", "signal"])), max_size=3)


@fuzz(250, 20_000)
@given(
    program=programs,
    slots=slots,
    first=happenings(14, "cancel"),
    rounds=st.lists(st.tuples(inserts, happenings(8, "cancel")), min_size=1, max_size=3),
)
def test_marked_calls_inserted_in_sequences_never_pause_and_each_on_the_path_runs_once(
    program: Node,
    slots: int,
    first: list[Happening],
    rounds: list[tuple[list[tuple[int, str]], list[Happening]]],
    seen: Counter[str],
) -> None:
    world = World(program, slots=slots)
    world.live(first)
    for number, (where, happened) in enumerate(rounds, 1):
        changed = insert_marked(world.deployed[-1], where, 100 * number)
        world.deploy(changed, world.events)
        # An inserted call that fails takes another path.
        world.live([(("well" if how == "badly" else how), which) for how, which in happened])
        assert not world.pause, world.report()
    world.end()
    assert world.done, world.report()
    world.check_effects()
    # The effects that this code, at its end, had requested.
    inserted = [effect for effect in world.asked if effect >= 100]
    assert all(len(world.keys[effect]) == 1 for effect in inserted), world.report()
    seen.update(inserted_ran=bool(inserted))


@fuzz(250, 20_000)
@given(
    program=programs,
    slots=slots,
    first=happenings(14),
    where=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    then=happenings(10),
)
def test_calls_behind_a_version_anywhere_never_pause(
    program: Node, slots: int, first: list[Happening], where: list[int], then: list[Happening], seen: Counter[str]
) -> None:
    world = World(program, slots=slots)
    world.live(first)
    changed: Node = program
    for number, each in enumerate(where, 100):
        changed = edited(changed, [("guard", each, 0, 0)], fresh=number)
    world.deploy(changed, world.events)
    world.live(then)
    world.end()
    assert not world.pause, world.report()
    world.check_effects()
    seen.update(new_ran=any(effect >= 100 for effect in world.keys), old_ran=any(effect < 100 for effect in world.keys))


# --- the rule, word for word, for calls in a line ----------------------------------------------------


@dataclass
class Records:
    """The calls of a line that a history holds."""

    #: Word, name and effect of each call, by its key.
    calls: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    #: How many signals of each name are not taken yet.
    mailbox: Counter[str] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        kind = event.WhichOneof("detail") or ""
        detail: Any = getattr(event, kind)
        if kind == "attempt_started":
            self.calls[detail.step_key] = ("step", detail.step_name, json.loads(detail.input.json)["effect"])
        elif kind == "timer_started":
            self.calls[detail.key] = ("sleep", "", 0)
        elif kind == "signal_awaited":
            self.calls[detail.key] = ("signal", detail.name, 0)
        elif kind == "signal_received":
            self.mailbox[detail.name] += 1
        elif kind in ("attempt_succeeded", "timer_fired", "signal_taken"):
            self.closed.add(detail.step_key if kind == "attempt_succeeded" else detail.key)


def rule(events: Sequence[Event], line: Node) -> tuple[bool, str]:
    """Return whether code that makes these calls in a line pauses, and the key at which it waits otherwise."""
    records = Records()
    for event in events:
        records.add(event)
        if event.HasField("signal_taken"):
            name = events[event.signal_taken.signal_sequence - 1].signal_received.name
            records.mailbox[name] -= 1
            records.calls[event.signal_taken.key] = ("signal", name, 0)
    unclaimed, new = set(records.calls), False
    counts: Counter[str] = Counter()
    for _, leaf in leaves_of(line):
        base = leaf.key or {"step": leaf.name, "sleep": "sleep", "signal": f"signal:{leaf.name}"}[leaf.word]
        counts[base] += 1
        key = base if counts[base] == 1 else f"{base}#{counts[base]}"
        recorded = records.calls.get(key)
        new = new or (recorded is None and bool(unclaimed) and not leaf.inserted)
        unclaimed.discard(key)
        if recorded not in (None, (leaf.word, leaf.name, leaf.effect)):
            return True, ""
        if key in records.closed:
            continue
        if leaf.word != "signal" or not records.mailbox[leaf.name]:
            return new and bool(unclaimed), key
        records.mailbox[leaf.name] -= 1  # The signal is there already.
    return bool(unclaimed), ""


@fuzz(700, 60_000)
@given(
    line=lines,
    first=st.integers(0, 6),
    rounds=st.lists(st.tuples(edits_of(*LINE_EDITS), st.integers(0, 4)), min_size=1, max_size=2),
)
def test_a_line_that_is_edited_pauses_exactly_when_the_rule_says(
    line: Node, first: int, rounds: list[tuple[list[Edit], int]], seen: Counter[str]
) -> None:
    world = World(line)
    _follow(world, line, first)
    for number, (edits, turns) in enumerate(rounds, 1):
        changed = edited(unmarked(world.deployed[-1]), edits, fresh=100 * number)
        if world.done:
            break
        events = list(world.events)
        world.story.append(f"edits {edits}")
        world.deploy(changed, events)
        _follow(world, changed, turns)
        seen.update(paused=bool(world.pause), paused_later=bool(world.pause) and len(world.events) > len(events))
    _follow(world, world.deployed[-1], MANY)
    assert world.done or world.pause, world.report()
    world.check_effects()
    seen.update(ended=world.done)


def _follow(world: World, line: Node, turns: int) -> None:
    """Make this many calls succeed, and compare each rest with the rule."""
    for turn in range(turns + 1):
        pauses, key = rule(world.events, line)
        assert bool(world.pause) == pauses, f"it {'does not pause' if pauses else 'pauses'}{world.report()}"
        assert world.pause or world.done == (not key), world.report()
        if world.pause or world.done or turn == turns:
            return
        assert key in world.life.history.open, f"it does not wait at {key}{world.report()}"
        world.settle(key, "well")


# --- a real server ---------------------------------------------------------------------------------

_SERVED = {deployed_program.name: deployed_program}
_sent = st.lists(st.sampled_from([*SIGNALS, *SIGNALS, "pause", "pause", "cancel"]), max_size=4)


@dataclass
class Deployed:
    """A workflow on a real server whose code changes from one life of the server to the next."""

    id: str
    programs: list[Node]
    #: The recorded events at the end of each life.
    histories: list[list[Event]] = field(default_factory=list)

    def report(self) -> str:
        events = self.histories[-1]
        lines = [f"{event.sequence:4} {event.WhichOneof('detail')} {_particulars(event)}" for event in events]
        return "\n".join(["", self.id, *map(str, self.programs), *lines])

    def paused_from(self, sequence: int) -> bool:
        """Return whether code that does not fit has paused the workflow after this event."""
        return any(
            event.workflow_paused.reason == event_pb2.STATE_REASON_NON_DETERMINISM
            for event in self.histories[-1][sequence:]
        )

    @property
    def new(self) -> set[str]:
        """The calls that the edited code has recorded and the earlier code has not."""
        return opened_by(self.histories[1]) - opened_by(self.histories[0])

    def check(self) -> None:
        """Check the promises after the last life."""
        doubled = {effect for program in self.programs for effect, count in effects_of(program).items() if count > 1}
        keys: dict[int, set[str]] = {}
        for workflow_id, effect, idempotency_key in RAN:
            if workflow_id == self.id:
                keys.setdefault(effect, set()).add(idempotency_key)
        twice = {effect for effect, found in keys.items() if len(found) > 1} - doubled
        assert not twice, f"{twice} ran under two keys{self.report()}"
        if self.programs[0] == self.programs[1]:
            assert not self.paused_from(0), f"unedited code pauses{self.report()}"
        if not self.new:
            assert not self.paused_from(len(self.histories[1])), f"a rollback pauses{self.report()}"
        for event in self.histories[-1]:
            if event.workflow_paused.reason == event_pb2.STATE_REASON_NON_DETERMINISM:
                self._check_pause(event)

    def _check_pause(self, paused: Event) -> None:
        events = self.histories[-1]
        named = re.findall(r"(\S+)(?: \(\w+\))? \(event (\d+)\)", paused.workflow_paused.explanation)
        assert named, self.report()
        assert all(_opened(events[int(number) - 1]) == key for key, number in named), self.report()
        before = events[paused.sequence - 2]
        by_code = before.WhichOneof("detail") in _BY_CODE and before.time == paused.time
        assert not by_code, f"a pause records nothing of the drive{self.report()}"


async def at_rest(handle: WorkflowHandle[Any]) -> workflow_pb2.Workflow:
    """Return the workflow once nothing of it runs."""
    async with asyncio.timeout(PATIENCE):
        while (found := await handle.get()).state in (
            workflow_pb2.WORKFLOW_STATE_PENDING,
            workflow_pb2.WORKFLOW_STATE_RUNNING,
        ):
            await asyncio.sleep(0.003)
    return found


async def finish(handle: WorkflowHandle[Any], *, may_pause: bool) -> None:
    """Send what the workflow waits for until it has ended. Terminate it if it may pause and pauses again."""
    resumed = seen = 0
    async with asyncio.timeout(PATIENCE):
        while not (found := await handle.get()).HasField("end_time"):
            if found.state == workflow_pb2.WORKFLOW_STATE_PAUSED:
                await act(handle, ["terminate" if resumed and may_pause else "resume"])
                resumed += 1
                assert resumed < MANY, found.explanation
            elif found.last_sequence == seen:
                await act(handle, SIGNALS)
            seen = found.last_sequence
            await asyncio.sleep(0.005)


@fuzz(25, 1_000)
@given(
    crowd=st.lists(
        st.tuples(programs, st.lists(edits_of(*ALL_EDITS), max_size=1), _sent, _sent), min_size=4, max_size=4
    ),
    stop=st.sampled_from(["drain", "close"]),
)
@example(
    # Each is replayed when a signal comes. What the replay adds before it pauses is a wait, a value or a timer.
    crowd=[
        (Node("sequence", (Leaf("step", "a", 1), Leaf("signal", "s"), *after)), [edits], ["pause"] * 3, ["t"])
        for after, edits in [
            ((Leaf("step", "b", 2),), [("rename", 1, 0, 1)]),
            ((Leaf("step", "b", 2),), [("remove", 0, 0, 0), ("rename", 0, 0, 1)]),
            ((Leaf("sleep"),), [("swap", 1, 2, 0)]),
            ((Leaf("now"), Leaf("step", "b", 2)), [("swap", 1, 2, 0), ("swap", 2, 3, 0)]),
        ]
    ],
    stop="drain",
)
async def test_any_edits_on_a_real_server_run_no_effect_under_two_keys_and_a_rollback_continues(
    crowd: list[tuple[Node, list[list[Edit]], list[str], list[str]]],
    stop: str,
    tmp_path: Path,
    numbers: Iterator[int],
    seen: Counter[str],
) -> None:
    directory = tmp_path / str(next(numbers))
    directory.mkdir()
    RAN.clear()
    stories = [
        Deployed(f"w{index}", [program, edited(program, edits[0], 100) if edits else program, program])
        for index, (program, edits, _, _) in enumerate(crowd)
    ]
    for life in range(3):
        DEPLOYED.update({story.id: story.programs[life] for story in stories})
        async with serving(directory, definitions=_SERVED, evict_after=0.01, drain_timeout=0.2) as server:
            handles = [server.client.handle(story.id) for story in stories]
            if life == 0:
                for story in stories:
                    await server.client.start(deployed_program, story.id, id=story.id)
            if life == 1:
                await asyncio.gather(*map(at_rest, handles))
            if life == 2:
                ends = (finish(each, may_pause=bool(story.new)) for each, story in zip(handles, stories, strict=True))
                await asyncio.gather(*ends)
            else:
                sent = [acts[life] for _, _, *acts in crowd]
                await asyncio.gather(*map(act, handles, sent))
            if stop == "drain":
                await server.app.drain()
        stored = read_store(directory / "mendflow.db").histories
        for story in stories:
            story.histories.append(stored[story.id])
    for story in stories:
        story.check()
        seen.update(
            unedited=story.programs[0] == story.programs[1],
            paused=story.paused_from(0),
            rolled_back_from_pause=story.paused_from(0) and not story.new,
        )


@pytest.fixture
def numbers() -> Iterator[int]:
    return itertools.count()
