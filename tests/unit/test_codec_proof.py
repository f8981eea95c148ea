"""The proof by types: a value that its type proves faithful has the outcome of one that is compared."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import pathlib
import re
import uuid
from collections import abc
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic_core import TzInfo
from typing_extensions import TypedDict

from mendflow.codec.difference import difference
from mendflow.codec.exact import exact_test
from mendflow.codec.values import JsonType
from mendflow.errors import PayloadError
from mendflow.v1 import payload_pb2
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
)
from tests.support.codec_values import finite, texts
from tests.support.scale import scaled

Payload = payload_pb2.Payload


class Row(TypedDict, total=False):
    id: int
    at: datetime


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: str = "x"


class Limited(BaseModel):
    n: Annotated[int, Field(ge=0, le=9)] = 0
    names: Annotated[list[str], Field(max_length=2)] = []
    parts: tuple[Slotted, ...] = ()
    whole: Base | None = None
    again: Base | None = None


integers = st.integers(-(1 << 64), 1 << 64)
bases = st.builds(Base, integers) | st.builds(Derived, integers, integers)
slotted = st.builds(Slotted, integers, texts)
#: Values beside the faithful ones: both ways must refuse them, or record the same text.
odd: st.SearchStrategy[Any] = st.sampled_from(
    [
        True, 1, 1.5, -0.0, 1 << 70, 10**4_400, float("inf"), float("nan"), "a", "\ud800", "\ufffd", b"a", None,
        Level.LOW, Word.A, Text("a"), Colour.RED, Pair(1, 2), (1, 2), [1], Names(["a"]), {1}, frozenset({1}), {"a": 1},
        {1: 1}, {"\udfff": 1}, {Text("a"): 1}, collections.Counter("a"), collections.OrderedDict(a=1), Base(1),
        Derived(1), changed(Base(1), z=1), Slotted(1), Limited(), Limited.model_construct(n=10),
        NIGHT.replace(fold=1), datetime(2020, 1, 1, tzinfo=BERLIN), datetime(2020, 1, 1, tzinfo=UTC), date(2020, 1, 1),
        time(1, fold=1), timedelta(1), decimal.Decimal("NaN"), decimal.Decimal("1.0"), uuid.UUID(int=5), {}, [],
        {"id": 1, "other": 2}, {"id": True},
    ]
)  # fmt: skip
EXACT: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (list[int], st.lists(integers | odd, max_size=3)),
    (list[float], st.lists(st.floats() | odd, max_size=3)),
    (list[str], st.lists(texts | odd, max_size=3)),
    (list[bool | None], st.lists(st.none() | st.booleans() | odd, max_size=3)),
    (dict[str, int], st.dictionaries(texts | st.sampled_from(["\ud800", Text("a")]), integers, max_size=3)),
    (dict[int, list[float]], st.dictionaries(integers, st.lists(st.floats(), max_size=2), max_size=2)),
    (dict[str, dict[str, Any]], st.dictionaries(texts, st.dictionaries(texts, odd, max_size=2), max_size=2)),
    (tuple[int, str], st.tuples(integers, texts) | st.tuples(odd, odd)),
    (tuple[float, ...], st.lists(finite | odd, max_size=3).map(tuple)),
    (set[int], st.sets(integers, max_size=3) | st.sets(st.sampled_from([1, Level.LOW, True, 1.5]))),
    (frozenset[str], st.frozensets(texts | st.sampled_from([Text("b"), Word.A, "\ud800"]), max_size=3)),
    (
        datetime,
        st.datetimes(timezones=st.none() | st.sampled_from([UTC, BERLIN, TzInfo(0), TzInfo(3600), TzInfo(3630)])),
    ),
    (date, st.dates()),
    (time, st.times(timezones=st.none() | st.just(UTC))),
    (timedelta, st.timedeltas()),
    (decimal.Decimal, st.decimals()),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Word, st.sampled_from(Word)),
    (Literal["a", "b"], st.sampled_from(["a", "b", "c", Word.A])),
    (Base, bases),
    (Slotted, slotted | st.builds(Slotted, odd, odd)),
    (list[Base | None], st.lists(bases | st.none(), max_size=3)),
    (Row, st.fixed_dictionaries({}, optional={"id": integers | odd, "at": st.datetimes() | odd})),
    (
        Limited,
        st.builds(
            Limited.model_construct,
            n=st.integers(-1, 11) | odd,
            names=st.lists(texts, max_size=3) | odd,
            parts=st.lists(slotted, max_size=2).map(tuple) | odd,
            whole=st.none() | bases,
            again=st.none() | odd,
        ),
    ),
]


def compared(annotation: Any) -> JsonType[Any]:
    """Return the type without the proof, so that each value is compared with what comes back."""
    value_type: JsonType[Any] = JsonType(annotation)
    value_type._is_plain = value_type._is_exact = None  # noqa: SLF001 - what it is compared with
    return value_type


def outcome(value_type: JsonType[Any], value: Any) -> Any:
    try:
        return value_type.dump(value)
    except PayloadError as error:
        return str(error)


@pytest.mark.parametrize("pair", EXACT, ids=lambda pair: re.sub(r"tests\.\w+\.", "", str(pair[0])))
@settings(max_examples=scaled(60, 3_000), deadline=None)
@given(data=st.data())
def test_a_proven_value_has_the_outcome_of_a_compared_one(pair: tuple[Any, Any], data: st.DataObject) -> None:
    annotation, values = pair
    value = data.draw(values | odd)
    proven: JsonType[Any] = JsonType(annotation)
    assert exact_test(proven._adapter.core_schema) is not None  # noqa: SLF001 - that there is a proof
    found = outcome(proven, value)
    assert found == outcome(compared(annotation), value)
    if isinstance(found, bytes):
        assert difference(value, proven.decode(Payload(json=found.decode()))) is None


@pytest.mark.parametrize(
    "annotation",
    [
        Computed, Raised, Tagged, Private, Open, Incremented, Stripping, Rounded, Opaque, int | str, abc.Sequence[int],
        pathlib.Path, bytes, Pair, Annotated[str, pydantic.StringConstraints(to_lower=True)],
        Annotated[int, pydantic.PlainSerializer(lambda n: n + 1)], Annotated[int, pydantic.AfterValidator(abs)],
        collections.deque[int], collections.defaultdict[str, int], dict[float, int], enum.Flag("F", "A B"),
    ],
)  # fmt: skip
def test_a_type_that_is_not_proven_has_no_test(annotation: Any) -> None:
    if annotation is Opaque:
        annotation = OpaqueType
    assert exact_test(pydantic.TypeAdapter(annotation).core_schema) is None
