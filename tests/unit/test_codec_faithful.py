"""Faithful values: a value comes back as it was, or the codec refuses it with its path, and what would come back."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import functools
import pathlib
import re
from collections import abc
from datetime import UTC, datetime, time, timedelta, timezone
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict

from mendflow.codec import ValueType
from mendflow.codec.difference import difference
from mendflow.errors import PayloadError
from tests.support.codec_classes import (
    BERLIN,
    NIGHT,
    Base,
    Colour,
    Computed,
    Derived,
    Incremented,
    Level,
    Names,
    Opaque,
    OpaqueType,
    Open,
    Pair,
    Private,
    Raised,
    Rounded,
    Stripping,
    Tagged,
    Text,
    Word,
    changed,
    field,
)
from tests.support.codec_values import round_trip


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    n: int = field(default=0, alias="N")
    m: int = field(default=0, validation_alias="M")  # It is also read by its name.


@dataclasses.dataclass
class Stripped:
    name: str

    def __post_init__(self) -> None:
        self.name = self.name.strip()


class BaseModelA(BaseModel):
    x: int


class DerivedModel(BaseModelA):
    y: int = 0


class Cached(BaseModel):
    x: int

    @functools.cached_property
    def double(self) -> int:
        return self.x * 2


@dataclasses.dataclass(eq=False)
class Uncompared:
    a: int
    b: float = dataclasses.field(default=0.0, compare=False)


@dataclasses.dataclass
class Noted:
    a: int

    def __post_init__(self) -> None:
        self.note = f"a={self.a}"


class Array:
    """A class whose == gives no truth value."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> Any:
        return Truthless()

    __hash__ = None  # type: ignore[assignment] # as an array has none


class Truthless:
    def __bool__(self) -> bool:
        raise ValueError


ArrayType = Annotated[Array, pydantic.PlainValidator(Array), pydantic.PlainSerializer(lambda value: value.x)]


@pytest.mark.parametrize(
    ("annotation", "value", "path", "words"),
    [
        # What a class has beside what is written, or changes when it is made again.
        (Tagged, changed(Tagged(), counter=5), "counter", "5 would be decoded as 0"),
        (Computed, changed(Computed(1), double=7), "double", "7 would be decoded as 2"),
        (Raised, Raised(1), "a", "2 would be decoded as 3"),
        (list[Raised], [Raised(1)], "[0].a", "2 would be decoded as 3"),
        (Stripped, changed(Stripped("a"), name=" a"), "name", "' a' would be decoded as 'a'"),
        (Base, Derived(1, 2), "", "Derived(x=1, y=2) is of type Derived and would be decoded as Base(x=1)"),
        (dict[str, Base], {"k": Derived(1, 2)}, "k", "of type Derived"),
        (BaseModelA, DerivedModel(x=1, y=2), "", "of type DerivedModel"),
        (Private, changed(Private(x=1), _y=5), "_y", "5 would be decoded as 0"),
        (Incremented, Incremented(x=1), "x", "2 would be decoded as 3"),
        (Stripping, Stripping.model_construct(x=" a"), "x", "' a' would be decoded as 'a'"),
        (Rounded, Rounded(x=1.25), "x", "1.25 would be decoded as 1.2"),
        (Base, changed(Base(1), z=5), "", "attribute 'z', 5, is no field"),
        (Uncompared, changed(Uncompared(1), b=True), "b", "True is of type bool"),
        (Noted, changed(Noted(1), note="b"), "note", "'b' would be decoded as 'a=1'"),
        (OpaqueType, changed(Opaque(1), seen=3), "seen", "3 would be decoded as 0"),
        # Keys.
        (dict[str | None, int], {None: 1, "None": 2}, "", "the key None would be lost"),
        (dict[str | None, int], {None: 1}, "", "the key None would be lost"),
        (dict[int | str, int], {1: 1, "1": 2}, "", "the key 1 would be lost"),
        (dict[str, int], {"\ud800": 1}, "", "lone surrogate"),
        (dict[str, Any], {"a": {"\ud800": 1}}, "", "surrogate"),
        (dict[str, dict[str, int]], {"a": {"\ud800": 1}}, "a", "lone surrogate"),
        (dict[str, int], {Word.A: 1}, "", "the key <Word.A: 'a'> would be lost"),
        # What a standard type carries beside its main value.
        (datetime, datetime(2020, 1, 1, tzinfo=BERLIN), "", "Europe/Berlin"),
        (datetime, datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")), "", "CET"),
        (datetime, datetime(2020, 1, 1, tzinfo=timezone(timedelta(seconds=30))), "", "offset"),
        (datetime, NIGHT.replace(fold=1), "", "fold"),
        (time, time(1, fold=1), "", "fold"),
        (time, time(1, tzinfo=BERLIN), "", "Europe/Berlin"),
        (collections.deque[int], collections.deque([1], maxlen=3), "", "maxlen, 3"),
        (collections.defaultdict[str, int], collections.defaultdict(lambda: 5), "", "default_factory"),
        (dict[str, int], collections.defaultdict(int, a=1), "", "of type defaultdict"),
        (dict[str, int], collections.OrderedDict(a=1), "", "of type OrderedDict"),
        (dict[str, int], collections.Counter("a"), "", "of type Counter"),
        (abc.Mapping[str, int], collections.OrderedDict(a=1), "", "of type OrderedDict"),
        (list[str], Names(["a"]), "", "of type Names"),
        (tuple[int, int], Pair(1, 2), "", "of type Pair"),
        (re.Pattern[str], re.compile("a", re.IGNORECASE), "", "re.IGNORECASE"),
        (pathlib.PurePath, pathlib.PureWindowsPath("a"), "", "PureWindowsPath"),
        (complex, complex(-0.0, 1), "", "would be decoded as"),
        # A subclass of a simple type, and a number that another type cannot hold.
        (int, True, "", "True is of type bool and would be decoded as 1 of type int"),
        (int, Level.LOW, "", "of type Level"),
        (str, Word.A, "", "of type Word"),
        (str, Text("a"), "", "of type Text"),
        (list[str], ["a", Text("a")], "[1]", "of type Text"),
        (set[int], {Level.LOW}, '["1"]', "of type Level"),
        (float, (1 << 60) + 1, "", "1152921504606846977 is of type int"),
        (Literal[Colour.RED, "red"], Colour.RED, "", "of type Colour"),
    ],
)
def test_a_value_that_would_come_back_as_another_is_refused(annotation: Any, value: Any, path: str, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        ValueType.of(annotation).encode(value)
    ((place, problem),) = caught.value.problems
    assert place == path
    assert words in problem


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Aliased, Aliased(N=5, M=6)),
        (Computed, Computed(4)),
        (Tagged, Tagged()),
        (Stripped, Stripped(" a ")),
        (Stripping, Stripping(x=" a ")),
        (Rounded, Rounded(x=1.5)),
        (Private, Private(x=1)),
        (Open, Open(x=1, more={"a": 1})),
        (Uncompared, Uncompared(1, 2.0)),
        (Noted, Noted(1)),
        (OpaqueType, Opaque(4)),
        (ArrayType, Array(4)),
        (dict[int, str], {1: "a", -5: "b"}),
        (dict[bool, int], {True: 1}),
        (dict[float, int], {-0.0: 1}),
        (dict[Level, int], {Level.LOW: 1}),
        (dict[str, int], {"\ufffd": 1}),
        (float, -0.0),
        (decimal.Decimal, decimal.Decimal("-0.00")),
        (decimal.Decimal, decimal.Decimal("1.2300")),
        (datetime, datetime(2020, 1, 1, tzinfo=UTC)),
        (datetime, datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=-8)))),
        (datetime, datetime(2020, 1, 1, tzinfo=ZoneInfo("UTC"))),
        (datetime, datetime(9999, 12, 31, 23, 59, 59, 999_999)),  # noqa: DTZ001 - the case
        (timedelta, timedelta.min),
        (timedelta, timedelta(days=9_999, microseconds=1)),
        (time, time(1, 2, 3, 4, tzinfo=UTC)),
        (IPv6Address, IPv6Address("fe80::1%eth0")),
        (collections.deque[int], collections.deque([1])),
        (collections.defaultdict[str, int], collections.defaultdict(int, a=1)),
        (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
        (collections.Counter[str], collections.Counter("aa")),
        (Pair, Pair(1, 2)),
        (pathlib.Path, pathlib.Path("a")),
        (re.Pattern[str], re.compile("a")),
        (Word, Word.A),
    ],
)
def test_what_comes_back_as_it_was_is_recorded(annotation: Any, value: Any) -> None:
    back = round_trip(annotation, value)
    assert type(back) is type(value)
    assert difference(value, back) is None
    if not isinstance(value, Opaque | Array | Private | Uncompared):
        assert back == value


def test_a_value_that_was_computed_and_kept_is_no_part_of_a_model() -> None:
    value = Cached(x=2)
    assert value.double == 4
    back = round_trip(Cached, value)
    assert back.x == 2
    assert "double" not in vars(back)


def test_an_int_may_stand_for_a_float_of_the_same_size() -> None:
    back = round_trip(float, 5)
    assert (back, type(back)) == (5.0, float)
    assert round_trip(dict[str, float | None], {"a": 5}) == {"a": 5.0}
