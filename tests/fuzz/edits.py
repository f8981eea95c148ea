"""Random programs, random edits of them, and one workflow that runs whatever program is deployed.

Each step has its own number as input, its *effect*: no effect may ever start under two keys. Steps share a few names,
so that their keys are numbered, and an edit moves the numbers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hypothesis import strategies as st

from mendflow import (
    PermanentError,
    RetryPolicy,
    StepFailed,
    TransientError,
    attempt,
    gather,
    now,
    random,
    sleep,
    step,
    uuid4,
    version,
    wait_signal,
    workflow,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.001, maximum_interval=0.002)
SOON = 0.003
STEPS = ("a", "b", "c")
SIGNALS = ("s", "t")
VALUES = {"now": now, "random": random, "uuid4": uuid4}
#: Each attempt of a step on a real server: workflow id, effect, idempotency key.
RAN: list[tuple[str, int, str]] = []
#: By input, the program that each workflow runs on a real server.
DEPLOYED: dict[str, Node] = {}


# --- programs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """One call."""

    word: str
    #: The name of the step or the signal.
    name: str = ""
    effect: int = 0
    key: str = ""
    inserted: bool = False

    def __str__(self) -> str:
        arguments = [str(self.effect)] if self.word == "step" else [repr(self.name)] if self.word == "signal" else []
        arguments += [f"key={self.key!r}"] if self.key else []
        arguments += ["inserted=True"] if self.inserted else []
        return f"{self.name if self.word == 'step' else self.word}({', '.join(arguments)})"

    @property
    def is_value(self) -> bool:
        return self.word in VALUES


@dataclass(frozen=True)
class Node:
    """Parts in a sequence, in a gather ("settled": with return_exceptions), in a try or on both sides of a version."""

    word: str
    parts: tuple[Part, ...] = ()
    #: The name of the version.
    name: str = ""

    def __str__(self) -> str:
        name = [repr(self.name)] if self.name else []
        return f"{self.word}({', '.join([*name, *map(str, self.parts)])})"


Part: TypeAlias = Leaf | Node
Place = tuple[int, ...]

_leaves = st.one_of(
    st.sampled_from(STEPS).map(lambda name: Leaf("step", name)),
    st.sampled_from(STEPS).map(lambda name: Leaf("step", name)),
    st.sampled_from(STEPS).map(lambda name: Leaf("step", name, key="own")),
    st.just(Leaf("sleep")),
    st.sampled_from(SIGNALS).map(lambda name: Leaf("signal", name)),
    st.sampled_from([Leaf("signal", "s", key="answer"), Leaf("sleep", key="pause")]),
    st.sampled_from(sorted(VALUES)).map(Leaf),
)


def _inner(parts: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    return st.one_of(
        st.builds(
            lambda word, each: Node(word, tuple(each)),
            st.sampled_from(["sequence", "gather", "settled"]),
            st.lists(parts, min_size=1, max_size=4),
        ),
        st.builds(lambda body, handler: Node("try", (body, handler)), parts, parts),
    )


def _program(parts: Sequence[Part]) -> Node:
    """Return a sequence of these parts in which each step has an effect of its own."""
    count = 0

    def numbered(part: Part) -> Part:
        nonlocal count
        if isinstance(part, Node):
            return dataclasses.replace(part, parts=tuple(map(numbered, part.parts)))
        count += 1
        return dataclasses.replace(part, effect=count) if part.word == "step" else part

    return Node("sequence", tuple(map(numbered, parts)))


#: The outermost part is a sequence.
programs = st.lists(st.recursive(_leaves, _inner, max_leaves=8), min_size=1, max_size=5).map(_program)
#: Only calls, one after the other.
lines = st.lists(_leaves.filter(lambda leaf: not leaf.is_value), min_size=1, max_size=7).map(_program)


def leaves_of(part: Part, path: Place = ()) -> Iterator[tuple[Place, Leaf]]:
    """Yield each call and its place."""
    if isinstance(part, Leaf):
        yield path, part
    else:
        for index, each in enumerate(part.parts):
            yield from leaves_of(each, (*path, index))


def effects_of(program: Part) -> Counter[int]:
    """Return how often each effect occurs in a program."""
    return Counter(leaf.effect for _, leaf in leaves_of(program) if leaf.word == "step")


def unmarked(part: Part) -> Any:
    """Return the part without its marks."""
    if isinstance(part, Leaf):
        return dataclasses.replace(part, inserted=False)
    return dataclasses.replace(part, parts=tuple(map(unmarked, part.parts)))


# --- edits -----------------------------------------------------------------------------------------

#: The kind of edit, its place (counted around), its target, and the chosen name.
Edit = tuple[str, int, int, int]

_where = st.integers(0, 30)


def edits_of(*words: str, most: int = 3) -> st.SearchStrategy[list[Edit]]:
    """Return a strategy of some edits."""
    return st.lists(st.tuples(st.sampled_from(words), _where, _where, st.integers(0, 2)), min_size=1, max_size=most)


ALL_EDITS = (
    *("rename", "key", "remove", "drop", "insert", "mark", "move", "copy"),
    *("replace", "swap", "wrap", "branch", "guard", "append"),
)
#: The edits that keep a line a line.
LINE_EDITS = ("rename", "key", "remove", "insert", "mark", "move", "replace", "swap", "append")


def edited(program: Node, edits: Sequence[Edit], fresh: int) -> Node:
    """Return the program after these edits, whose new calls have effects and keys from ``fresh`` on."""
    part: Part = program
    for number, edit in enumerate(edits, fresh):
        part = _edited(part, edit, number)
    return part if isinstance(part, Node) else Node("sequence", (part,))


def _edited(program: Part, edit: Edit, fresh: int) -> Part:
    word, where, whereto, name = edit
    new = Leaf("step", STEPS[name], fresh)
    if word == "append" and isinstance(program, Node):
        return dataclasses.replace(program, parts=(*program.parts, new))
    if word in ("insert", "mark", "branch"):
        marked = dataclasses.replace(new if where % 5 else Leaf("sleep"), key=f"k{fresh}", inserted=True)
        inside = ("gather", "settled") if word == "branch" else _MANY
        return _inserted(program, marked if word == "mark" else new, whereto, inside)
    found = list(leaves_of(program))
    if not found:
        return program
    path, leaf = found[where % len(found)]
    if word in ("move", "copy"):
        return _inserted(_put(program, path, None) if word == "move" else program, leaf, whereto, _MANY)
    if word == "swap":
        other_path, other = found[whereto % len(found)]
        return _put(_put(program, path, other), other_path, leaf)
    if word in ("drop", "wrap"):
        path = path[: max(1, len(path) - whereto % 3)]
    return _put(program, path, _REPLACE[word](leaf if word != "wrap" else _at(program, path), new, name))


#: The nodes that hold any number of parts.
_MANY = ("sequence", "gather", "settled")
_REPLACE: dict[str, Any] = {
    # A renamed call that keeps its mark claims to be another call.
    "rename": lambda leaf, _, name: dataclasses.replace(_renamed(leaf, name), inserted=False),
    "key": lambda leaf, new, _: dataclasses.replace(leaf, key=f"k{new.effect}"),
    "remove": lambda *_: None,
    "drop": lambda *_: None,
    "replace": lambda _, new, __: new,
    "wrap": lambda part, *_: Node("gather", (part,)),
    "guard": lambda leaf, new, _: guarded(leaf, new),
}


def guarded(old: Part, new: Leaf) -> Node:
    """Return both, with a decision between them."""
    return Node("version", (dataclasses.replace(new, name="n", key=f"k{new.effect}"), old), f"v{new.effect}")


def _renamed(leaf: Leaf, name: int) -> Leaf:
    if leaf.word == "step":
        return dataclasses.replace(leaf, name=STEPS[name])
    return dataclasses.replace(leaf, name=SIGNALS[name % 2]) if leaf.word == "signal" else leaf


def _at(part: Part, path: Place) -> Part:
    return _at(part.parts[path[0]], path[1:]) if path and isinstance(part, Node) else part


def _put(part: Part, path: Place, new: Part | None) -> Part:
    """Replace or remove the part at this place."""
    if not path or not isinstance(part, Node):
        return new or Node("sequence")
    index, *rest = path
    if rest or new is not None or part.word not in _MANY:
        middle: tuple[Part, ...] = (_put(part.parts[index], tuple(rest), new),)
    else:
        middle = ()
    return dataclasses.replace(part, parts=part.parts[:index] + middle + part.parts[index + 1 :])


def gaps_of(part: Part, inside: Sequence[str], path: Place = ()) -> Iterator[Place]:
    """Yield where a part may be inserted: before each part of such a node, and at its end."""
    if isinstance(part, Node):
        if part.word in inside:
            yield from ((*path, index) for index in range(len(part.parts) + 1))
        for index, each in enumerate(part.parts):
            yield from gaps_of(each, inside, (*path, index))


def _inserted(part: Part, new: Part, where: int, inside: Sequence[str]) -> Part:
    gaps = list(gaps_of(part, inside))
    return put_in(part, gaps[where % len(gaps)], new) if gaps else part


def put_in(part: Part, gap: Place, new: Part) -> Part:
    """Put a part into a gap."""
    if not isinstance(part, Node):
        return part
    index, *rest = gap
    middle = put_in(part.parts[index], tuple(rest), new) if rest else new
    return dataclasses.replace(part, parts=(*part.parts[:index], middle, *part.parts[index + bool(rest) :]))


# --- running ---------------------------------------------------------------------------------------


async def _effect(effect: int) -> str:
    """Run a step on a real server. Its effect determines how."""
    about = attempt()
    RAN.append((about.workflow_id, effect, about.idempotency_key))
    if effect % 4 == 1:
        await asyncio.sleep(SOON)
    if effect % 7 == 6:
        raise PermanentError(str(effect))
    if effect % 5 == 4 and about.number == 1:
        raise TransientError(str(effect))
    return str(effect)


_FUNCTIONS = {name: step(name=name, retry=QUICK)(_effect) for name in (*STEPS, "n")}


@functools.cache
def _step(name: str, key: str, inserted: bool) -> Any:  # noqa: FBT001
    return _FUNCTIONS[name].with_options(key=key or None, inserted=inserted)


async def interpret(part: Part, asked: list[int]) -> None:
    """Run a program. ``asked`` gets the effects that it requests."""
    if isinstance(part, Leaf):
        await _call(part, asked)
    elif part.word == "sequence":
        for each in part.parts:
            await interpret(each, asked)
    elif part.word == "version":
        await interpret(part.parts[0 if version(part.name) else 1], asked)
    elif part.word == "try":
        try:
            await interpret(part.parts[0], asked)
        except StepFailed:
            await interpret(part.parts[1], asked)
    else:
        await gather(*(interpret(each, asked) for each in part.parts), return_exceptions=part.word == "settled")


async def _call(leaf: Leaf, asked: list[int]) -> None:
    key = leaf.key or None
    if leaf.word == "step":
        asked.append(leaf.effect)
        await _step(leaf.name, leaf.key, leaf.inserted)(leaf.effect)
    elif leaf.word == "sleep":
        await sleep(SOON, key=key, inserted=leaf.inserted)
    elif leaf.word == "signal":
        await wait_signal(leaf.name, key=key, inserted=leaf.inserted)
    else:
        VALUES[leaf.word]()


@workflow
async def edited_program(what: Any) -> None:
    """Run a program. In a simulation, the input is the program and the list for the effects that it requests."""
    program, asked = what
    await interpret(program, asked)


@workflow
async def deployed_program(which: str) -> None:
    """Run the program that is deployed under this name."""
    await interpret(DEPLOYED[which], [])
