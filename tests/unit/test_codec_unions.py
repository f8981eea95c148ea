"""Unions: a value does not come back as another member of its union."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, RootModel
from typing_extensions import TypedDict

from mendflow.codec import ValueType
from mendflow.errors import PayloadError

Both = list[int] | tuple[int, ...]
Sets = frozenset[int] | set[int]


@dataclasses.dataclass
class Held:
    a: Both


@dataclasses.dataclass
class Open:
    a: Sequence[int]
    b: Both


@dataclasses.dataclass
class Fixed:
    a: tuple[int, ...]


@dataclasses.dataclass
class Chain:
    a: Both
    next: Chain | None = None


class Model(BaseModel):
    a: Sets


class Root(RootModel[Both]):
    pass


class Members(TypedDict):
    a: Both


class Named(NamedTuple):
    a: Both


CHANGED: list[tuple[Any, Any, str]] = [
    (Both, (1,), ""),
    (Both | None, (1,), ""),
    (list | tuple, (1,), ""),
    (Sequence[int] | tuple[int, ...], (1,), ""),
    (Iterable[int] | tuple[int, ...], (1,), ""),
    (list[int] | tuple[int, int], (1, 2), ""),
    (Sets, {1}, ""),
    (AbstractSet[int] | set[int], {1}, ""),
    (list[Both], [[1], (1,)], "[1]: "),
    (dict[int, Both], {1: (1,)}, '["1"]: '),
    (tuple[int, Both], (1, (1,)), "[1]: "),
    (tuple[Both, ...], ((1,),), "[0]: "),
    (list[Sequence[int]] | list[tuple[int, ...]], [(1,)], "[0]: "),
    (Held, Held((1,)), "a: "),
    (list[Held], [Held((1,))], "[0].a: "),
    (Chain, Chain([1], Chain((1,))), "next.a: "),
    (Model, Model.model_construct(a={1}), "a: "),
    (Root, Root.model_construct((1,)), "root: "),
    (Members, {"a": (1,)}, "a: "),
    (Named, Named((1,)), "[0]: "),
]


@pytest.mark.parametrize(("annotation", "value", "place"), CHANGED)
def test_a_value_whose_own_type_is_in_its_union_is_not_changed_to_another_member(
    annotation: Any, value: Any, place: str
) -> None:
    with pytest.raises(PayloadError, match="because its annotation has both") as caught:
        ValueType.of(annotation).encode(value)
    assert f": {place}" in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value", "back"),
    [
        (Both, [1], [1]),
        (tuple[int, ...] | list[int], [1], [1]),
        (Sequence[int] | None, (1,), [1]),
        (Sequence[int] | str, (1,), [1]),
        (Any, (1,), [1]),
        (AbstractSet[int] | None, {1}, frozenset({1})),
        (AbstractSet[int] | frozenset[int], {1}, frozenset({1})),
        (Open, Open((1,), [1]), Open([1], [1])),
        (Open | Fixed, Open((1,), [1]), Open([1], [1])),
        (Open | Fixed, Fixed((1,)), Fixed((1,))),
    ],
)
def test_what_an_annotation_leaves_open_still_comes_back_as_another_type(
    annotation: Any, value: Any, back: Any
) -> None:
    value_type = ValueType.of(annotation)
    found = value_type.decode(value_type.encode(value))
    assert type(found) is type(back)
    assert found == back
