"""A shortcut records plain values with the same bytes, and accepts nothing that the full path refuses."""

from __future__ import annotations

import collections
import enum
import math
import typing
from decimal import Decimal
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, PlainSerializer

from mendflow.codec import ValueType
from mendflow.codec.plain import is_plain, plain_test
from mendflow.codec.values import JsonType
from mendflow.errors import PayloadError
from tests.support.scale import scaled

TREES: list[Any] = [
    Any,
    object,
    JsonValue,
    dict,
    dict[str, Any],
    dict[str, object],
    dict[str, JsonValue],
    dict[Any, Any],
    list,
    list[Any],
    list[JsonValue],
    list[dict[str, Any]],
    typing.Dict,  # noqa: UP006 - the case
    typing.List,  # noqa: UP006 - the case
    typing.Dict[str, Any],  # noqa: UP006 - the case
    dict[str, Any] | None,
    None | list[Any],
]
LEAVES: list[Any] = [int, str, bool, float, int | None, str | None]


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Number(float):
    pass


class Point(NamedTuple):
    x: int
    y: int


class Model(BaseModel):
    x: int = 1


class Mapping(dict[str, Any]):
    pass


class Sequence(list[Any]):
    pass


texts = st.text(st.characters(codec="utf-8"), max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | texts | finite
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)
#: Values that are not plain, many of which both paths accept: a tuple, an integer beyond 64 bits, an OrderedDict.
odd = st.sampled_from(
    [
        Level.LOW,
        Text("a"),
        Number(1.5),
        Point(1, 2),
        (1, 2),
        Model(),
        Mapping(a=1),
        Sequence([1]),
        collections.OrderedDict(a=1),
        collections.defaultdict(int, a=1),
        collections.Counter("a"),
        {1: "a"},
        {Text("a"): 1},
        {None: 1},
        1 << 63,
        -(1 << 63) - 1,
        10**4_000,
        math.nan,
        math.inf,
        -math.inf,
        "\ud800",
        {"\udfff": 1},
        b"abc",
        {1, 2},
        Decimal(1),
        1j,
        SimpleNamespace(a=1),
        object,
    ]
)
anything = st.recursive(
    leaves | odd,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3) | st.tuples(inner) | st.tuples(odd)
    ),
    max_leaves=6,
)


def slow(annotation: Any) -> JsonType[Any]:
    """Return the same type without the shortcut."""
    value_type: JsonType[Any] = JsonType(annotation)
    value_type._is_plain = value_type._is_exact = None  # noqa: SLF001 - what it is compared with
    return value_type


def outcome(value_type: ValueType[Any], value: Any) -> tuple[str, Any]:
    try:
        return "text", value_type.dump(value)
    except PayloadError as error:
        return "refused", (str(error), error.problems)


@pytest.mark.parametrize("annotation", TREES + LEAVES, ids=str)
def test_a_type_that_takes_plain_values_has_a_test(annotation: Any) -> None:
    assert plain_test(annotation) is not None


@pytest.mark.parametrize(
    "annotation",
    [
        Level,
        Text,
        Mapping,
        tuple,
        typing.Tuple,  # noqa: UP006 - the case
        typing.Literal[1],
        dict[int, Any],
        dict[str, int],
        list[int],
        list[list[int]],
        int | str,
        dict[str, Any] | list[Any],
        dict[str, int] | None,
        collections.OrderedDict[str, Any],
        collections.abc.Mapping[str, Any],
        Annotated[dict[str, Any], Field(max_length=1)],
        Annotated[Any, PlainSerializer(str)],
        list[Annotated[Any, PlainSerializer(str)]],
    ],
    ids=str,
)
def test_a_type_that_asks_for_more_than_plainness_has_none(annotation: Any) -> None:
    assert plain_test(annotation) is None


@pytest.mark.parametrize("annotation", TREES + LEAVES, ids=str)
@settings(max_examples=scaled(30, 1_000), deadline=None)
@given(value=trees)
def test_a_plain_value_has_the_same_outcome_both_ways(annotation: Any, value: Any) -> None:
    assert outcome(JsonType(annotation), value) == outcome(slow(annotation), value)


@pytest.mark.parametrize("annotation", TREES + LEAVES, ids=str)
@settings(max_examples=scaled(30, 1_000), deadline=None)
@given(value=anything)
def test_any_value_has_the_same_outcome_both_ways(annotation: Any, value: Any) -> None:
    assert outcome(JsonType(annotation), value) == outcome(slow(annotation), value)


@settings(max_examples=scaled(200, 5_000), deadline=None)
@given(trees)
def test_a_plain_tree_is_plain_and_comes_back(value: Any) -> None:
    assert is_plain(value)
    value_type = ValueType.of(Any)
    assert repr(value_type.decode(value_type.encode(value))) == repr(value)


@given(finite)
def test_a_float_comes_back_to_the_bit(value: float) -> None:
    value_type = ValueType.of(Any)
    assert value_type.decode(value_type.encode(value)).hex() == value.hex()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.0, b"-0.0"),
        (1.0, b"1.0"),
        (5e-324, b"5e-324"),
        ('\u2028\x00"é\U0001f600', b'"\xe2\x80\xa8\\u0000\\"\xc3\xa9\xf0\x9f\x98\x80"'),
        ({"b": 1, "a": 2}, b'{"b":1,"a":2}'),
        (-(1 << 63), b"-9223372036854775808"),
        ({}, b"{}"),
        ([[], {}], b"[[],{}]"),
        (None, b"null"),
    ],
)
def test_the_text_of_a_plain_value(value: Any, text: bytes) -> None:
    assert is_plain(value)
    assert JsonType(Any).dump(value) == slow(Any).dump(value) == text


@pytest.mark.parametrize(
    "value", [1e15, 1e16, 1e17, 1e-5, 1e-7, 123456789012345680.0, 1.7976931348623157e308, 0.1 + 0.2]
)
def test_a_float_has_the_same_text_both_ways(value: float) -> None:
    assert outcome(JsonType(Any), [value]) == outcome(slow(Any), [value])


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": [v]}], ids=["itself", "item", "deeper"])
@pytest.mark.parametrize(
    "value",
    [
        Level.LOW,
        Text("a"),
        Number(1.5),
        Point(1, 2),
        (1,),
        Model(),
        Mapping(a=1),
        Sequence(),
        collections.OrderedDict(a=1),
        collections.defaultdict(int),
        {1: "a"},
        {Text("a"): 1},
        1 << 63,
        -(1 << 63) - 1,
        math.nan,
        math.inf,
        -math.inf,
        b"a",
        bytearray(b"a"),
        {1},
        Decimal(1),
    ],
    ids=repr,
)
def test_a_value_that_is_not_exactly_plain_takes_the_full_path(wrap: Any, value: Any) -> None:
    whole = wrap(value)
    assert not is_plain(whole)
    assert outcome(JsonType(Any), whole) == outcome(slow(Any), whole)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {v: 1}, lambda v: {"a": {"b": v}}])
@pytest.mark.parametrize("annotation", [Any, JsonValue, dict, dict[str, Any], list, str])
def test_a_lone_surrogate_is_refused_with_the_same_message(annotation: Any, wrap: Any, text: str) -> None:
    found = outcome(JsonType(annotation), wrap(text))
    assert found[0] == "refused"
    assert found == outcome(slow(annotation), wrap(text))


@pytest.mark.parametrize("depth", [1, 99, 100, 101, 102, 150, 199, 200, 201, 255, 256, 5_000])
@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: {"a": v}], ids=["list", "dict"])
def test_depth_is_judged_the_same(wrap: Any, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    assert is_plain(value) == (depth <= 101)
    assert outcome(JsonType(Any), value) == outcome(slow(Any), value)


def test_a_value_that_contains_itself_is_not_plain() -> None:
    wide: list[Any] = [1]
    wide += [wide, wide, {"a": wide}]
    around: dict[str, Any] = {}
    around["a"] = [around]
    for value in (wide, around):
        assert not is_plain(value)
        assert outcome(JsonType(Any), value) == outcome(slow(Any), value)


def test_a_value_that_is_changed_later_keeps_its_text() -> None:
    value: dict[str, Any] = {"a": [1, {"b": 2}]}
    value_type = ValueType.of(dict[str, Any])
    payload = value_type.encode(value)
    value["a"][1]["b"] = 3
    value["a"].append(Level.LOW)
    value["c"] = math.nan
    assert payload.json == '{"a":[1,{"b":2}]}'
    assert value_type.decode(payload) == {"a": [1, {"b": 2}]}
