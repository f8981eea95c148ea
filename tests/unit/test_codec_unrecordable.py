"""Enums, literals, keys and sets that never come back from JSON are refused at the definition."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel

from mendflow.codec import ValueType
from mendflow.errors import DefinitionError


class Level(enum.Enum):
    LOW = 1


class Word(enum.StrEnum):
    LOW = "low"


class Number(enum.IntEnum):
    LOW = 1


class Named(enum.Enum):
    LOW = "low"


class Pair(enum.Enum):
    LOW = (1, 2)


@dataclasses.dataclass(frozen=True)
class Tag:
    a: int


class Model(BaseModel, frozen=True):
    a: int


class Point(NamedTuple):
    x: int


@dataclasses.dataclass
class Held:
    levels: dict[Level, int]


class Holder(BaseModel):
    tags: set[Tag]


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (dict[Level, int], "the key <Level.LOW: 1> is not read from one"),
        (dict[Level | None, int], "the key <Level.LOW: 1> is not read from one"),
        (tuple[Level, dict[Level, int]], "the key <Level.LOW: 1> is not read from one"),
        (dict[Literal[1, 2], int], "the key 1 is not read from one"),
        (dict[Point, int], "a named-tuple is none"),
        (set[Tag], "a set of Tag has no fixed order in JSON"),
        (frozenset[Model], "a set of Model has no fixed order in JSON"),
        (AbstractSet[Tag], "a set of Tag has no fixed order in JSON"),
        (set[tuple[int, Tag]], "a set of Tag has no fixed order in JSON"),
        (tuple[Tag, set[Tag]], "a set of Tag has no fixed order in JSON"),
        (Literal[Level.LOW], "annotate it with Level"),
        (Literal[b"a"], "b'a' is not read from JSON"),
        (Pair, "<Pair.LOW: (1, 2)> is not read from JSON"),
        (Held, "Held.levels: JSON's keys are strings"),
        (list[Holder], "Holder.tags: a set of Tag"),
    ],
)
def test_a_type_that_never_comes_back_is_refused_with_its_place(annotation: Any, problem: str) -> None:
    with pytest.raises(DefinitionError, match=f"cannot be recorded: .*{re.escape(problem)}"):
        ValueType.of(annotation)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (dict[Word, int], {Word.LOW: 1}),
        (dict[Number, int], {Number.LOW: 1}),
        (dict[Named, int], {Named.LOW: 1}),
        (dict[Literal["a"], int], {"a": 1}),
        (Literal[Word.LOW], Word.LOW),
        (Literal["a", 1, True] | None, None),
        (set[Level], {Level.LOW}),
        (set[Point], {Point(1)}),
        (AbstractSet[int], frozenset({1})),
        (tuple[Level, dict[str, Level]], (Level.LOW, {"a": Level.LOW})),
    ],
)
def test_a_like_type_that_comes_back_is_recorded(annotation: Any, value: Any) -> None:
    value_type = ValueType.of(annotation)
    back = value_type.decode(value_type.encode(value))
    assert back == value
    assert type(back) is type(value)
