"""Code that makes its calls in a line: an edit pauses it exactly when the rule says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.edited_world import MANY, World
from tests.fuzz.edits import LINE_EDITS, Node, edited, edits_of, lines, unmarked
from tests.fuzz.forms import fuzz
from tests.fuzz.line_rule import rule

if TYPE_CHECKING:
    from collections import Counter

    from tests.fuzz.edits import Edit


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
