"""Abstract collections: which values each takes, and what comes back."""

from __future__ import annotations

from collections import abc
from collections.abc import Iterable
from typing import Annotated, Any

import pytest

from mendflow.codec import Arguments, ValueType
from mendflow.errors import PayloadError
from tests.support.codec_classes import Level
from tests.support.codec_values import round_trip


@pytest.mark.parametrize(
    "annotation",
    [
        abc.Iterable[int],
        Iterable[int],
        abc.Collection[int],
        abc.Container[int],
        abc.Reversible[int],
        abc.Sequence[int],
        abc.MutableSequence[int],
        abc.Iterable,
        abc.Iterable[int] | None,
        Annotated[abc.Iterable[int], "note"],
    ],
    ids=str,
)
def test_an_abstract_sequence_takes_a_list_and_gives_one(annotation: Any) -> None:
    for _ in range(2):
        back = round_trip(annotation, [1, 2])
        assert (back, type(back)) == ([1, 2], list)


def test_an_abstract_sequence_takes_a_tuple_and_checks_its_items() -> None:
    assert round_trip(abc.Iterable[int], (1, 2)) == [1, 2]
    assert round_trip(dict[str, list[abc.Iterable[int]]], {"a": [[1]]}) == {"a": [[1]]}
    for value in (["a"], [1, Level.LOW], "12", {1}, iter([1]), (i for i in [1])):
        with pytest.raises(PayloadError):
            ValueType.of(abc.Iterable[int]).encode(value)


@pytest.mark.parametrize("value", [{1, 2}, frozenset({1, 2})])
def test_an_abstract_set_takes_both_kinds_of_set_and_gives_a_frozen_one(value: Any) -> None:
    back = round_trip(abc.Set[int], value)
    assert (back, type(back)) == ({1, 2}, frozenset)
    assert ValueType.of(abc.Set[int]).encode({10, 9, 1}).json == "[1,9,10]"


def test_an_abstract_mapping_takes_a_dict_and_gives_one() -> None:
    assert round_trip(abc.Mapping[str, abc.Iterable[int]], {"a": [1]}) == {"a": [1]}
    assert round_trip(abc.MutableMapping[str, int], {"a": 1}) == {"a": 1}


def takes_numbers(numbers: Iterable[int], more: abc.Set[str] = frozenset()) -> None: ...


def test_a_call_with_abstract_collections_comes_back_each_time_the_same() -> None:
    arguments = Arguments.of(takes_numbers)
    payload = arguments.encode(([1, 2], {"b", "a"}), {})
    assert payload.json == '{"numbers":[1,2],"more":["a","b"]}'
    assert arguments.decode(payload) == arguments.decode(payload) == ([[1, 2], {"a", "b"}], {})
    assert arguments.canonical(payload) == payload
