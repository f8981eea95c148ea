"""Edits that never pause a workflow: appended calls, marked calls, and calls behind a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.edited_world import Happening, World, happenings, slots
from tests.fuzz.edits import Leaf, Node, edited, edits_of, gaps_of, programs, put_in
from tests.fuzz.forms import fuzz

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from tests.fuzz.edits import Edit, Part, Place


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
