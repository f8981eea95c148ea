"""Code that changes while its workflows are open: after any edit, no effect starts under two keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.edited_world import Happening, World, happenings, slots
from tests.fuzz.edits import ALL_EDITS, Node, edited, edits_of, programs
from tests.fuzz.forms import fuzz
from tests.fuzz.opened_calls import opened_by

if TYPE_CHECKING:
    from collections import Counter

    from tests.fuzz.edits import Edit


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
