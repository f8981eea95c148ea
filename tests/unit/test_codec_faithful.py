"""Faithful values: a value comes back as it was, or the codec refuses it with its path, and what would come back."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import functools
import pathlib
import re
import threading
import uuid
from collections import abc
from collections.abc import Callable, Generator, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from ipaddress import IPv6Address
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, PrivateAttr
from pydantic_core import TzInfo
from typing_extensions import TypedDict

from mendflow.codec import Arguments, ValueType
from mendflow.codec.difference import difference
from mendflow.codec.exact import exact_test
from mendflow.codec.values import JsonType
from mendflow.errors import DefinitionError, PayloadError
from mendflow.v1 import payload_pb2
from tests.support.codec_values import finite, texts
from tests.support.scale import scaled

Payload = payload_pb2.Payload


def field(**settings: Any) -> Any:
    """Return a pydantic field for a class whose type checkers know no aliases."""
    return Field(**settings)


class ReadsOther(BaseModel):
    n: int = field(default=0, validation_alias="N")


class WritesOther(BaseModel):
    n: int = field(default=0, serialization_alias="N")


class ReadsChoices(BaseModel):
    n: int = field(default=0, validation_alias=AliasChoices("a", "b"))


class ReadsInside(BaseModel):
    n: int = field(default=0, validation_alias=AliasPath("a", "b"))


class ReadsByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    n: int = field(default=0, alias="N")


class WritesTwice(BaseModel):
    a: int = field(default=0, alias="x")
    b: int = field(default=0, alias="x")


class Excluded(BaseModel):
    x: int
    y: int = Field(default=0, exclude=True)


@dataclasses.dataclass
class ExcludedPart:
    x: Annotated[int, Field(exclude=True)] = 1


@dataclasses.dataclass
class NeedsInit:
    x: int
    seed: dataclasses.InitVar[int]


class WithGenerator(BaseModel):
    items: Iterable[int] = ()


@dataclasses.dataclass
class Holder:
    part: Excluded | None = None


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    n: int = field(default=0, alias="N")
    m: int = field(default=0, validation_alias="M")  # It is also read by its name.


@dataclasses.dataclass
class Computed:
    a: int
    double: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.double = self.a * 2


@dataclasses.dataclass
class Tagged:
    kind: Literal["a"] = dataclasses.field(default="a", init=False)
    counter: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass
class Raised:
    a: int

    def __post_init__(self) -> None:
        self.a += 1


@dataclasses.dataclass
class Stripped:
    name: str

    def __post_init__(self) -> None:
        self.name = self.name.strip()


@dataclasses.dataclass
class Base:
    x: int


@dataclasses.dataclass
class Derived(Base):
    y: int = 0


class BaseModelA(BaseModel):
    x: int


class DerivedModel(BaseModelA):
    y: int = 0


class Private(BaseModel):
    x: int
    _y: int = PrivateAttr(default=0)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


class Incremented(BaseModel):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def increment(cls, x: int) -> int:
        return x + 1


class Stripping(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    x: str


class Rounded(BaseModel):
    x: float

    @pydantic.field_serializer("x")
    def round(self, x: float) -> float:
        return round(x, 1)


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


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(enum.StrEnum):
    A = "a"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Names(list[str]):
    pass


class Pair(NamedTuple):
    x: int
    y: int


class Opaque:
    """A class that says nothing about sameness."""

    def __init__(self, x: int) -> None:
        self.x = x
        self.seen = 0


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


OpaqueType = Annotated[Opaque, pydantic.PlainValidator(Opaque), pydantic.PlainSerializer(lambda value: value.x)]
ArrayType = Annotated[Array, pydantic.PlainValidator(Array), pydantic.PlainSerializer(lambda value: value.x)]


def changed(value: Any, **attributes: Any) -> Any:
    """Return the value with attributes that are set after it was made."""
    for name, part in attributes.items():
        setattr(value, name, part)
    return value


def round_trip(annotation: Any, value: Any) -> Any:
    value_type = ValueType.of(annotation)
    return value_type.decode(Payload.FromString(value_type.encode(value).SerializeToString()))


@pytest.mark.parametrize(
    ("annotation", "path", "words"),
    [
        (ReadsOther, "ReadsOther.n", "written as 'n' but read as 'N'; use one alias"),
        (WritesOther, "WritesOther.n", "written as 'N' but read as 'n'"),
        (ReadsChoices, "ReadsChoices.n", "read as 'a' or 'b'"),
        (ReadsInside, "ReadsInside.n", "read as a name inside another member"),
        (ReadsByName, "ReadsByName.n", "written as 'N' but read as 'n'"),
        (WritesTwice, "WritesTwice.b", "written as 'x', as is a"),
        (Excluded, "Excluded.y", "excluded"),
        (ExcludedPart, "ExcludedPart.x", "excluded"),
        (list[Excluded], "Excluded.y", "excluded"),
        (Holder, "Excluded.y", "excluded"),
        (dict[str, tuple[int, Excluded]] | None, "Excluded.y", "excluded"),
        (NeedsInit, "NeedsInit.seed", "InitVar"),
        (WithGenerator, "WithGenerator", "read only once; use a list"),
        (Generator[int, None, None], "", "read only once; use a list"),
        (Callable[[], int], "", "a function"),
        (type[int], "", "a class"),
        (pydantic.Json, "", "the value's own type"),
        (pydantic.SecretStr, "", "asterisks"),
        (pydantic.Secret[int], "", "asterisks"),
        (dict[None, int], "", "keys are strings"),
        (dict[tuple[int, int], int], "", "keys are strings"),
    ],
    ids=str,
)
def test_a_type_whose_values_never_come_back_is_refused_at_definition(annotation: Any, path: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=f"cannot be recorded: {re.escape(path)}.*{re.escape(words)}"):
        ValueType.of(annotation)


def test_a_definition_that_would_lose_a_field_names_the_parameter() -> None:
    def takes(order: Excluded) -> None: ...

    takes.__annotations__["order"] = Excluded
    with pytest.raises(DefinitionError, match=r"parameter 'order': .*Excluded\.y: it is excluded"):
        Arguments.of(takes)


BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = datetime(2020, 10, 25, 2, 30)  # noqa: DTZ001 - the hour that comes twice


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


# Abstract collections.


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


# Numbers from callers.


INFINITE = ["1e999", "-1E+400", '"inf"', '"-Infinity"', '"nan"', '"1e309"', "1" * 400]
#: Other spellings of infinite numbers: a long number with a short exponent, digits with underscores, and escapes.
INFINITE += ["9" * 290 + "e60", "1" * 301 + "e9", '"1e9_99"', '"1e+_999"', f'"{"9_" * 160}9e300"', f'"1{"_111" * 110}"']
INFINITE += [r'"1\u0065999"', r'"i\u006ef"', r'"1e\u0039\u0039\u0039"']


@pytest.mark.parametrize("text", INFINITE)
def test_a_number_that_cannot_be_recorded_is_not_accepted(text: str) -> None:
    shapes: list[tuple[Any, str, str]] = [
        (float, text, ""),
        (list[float], f"[1.5,{text}]", "[1]"),
        (dict[str, list[float | None]], f'{{"a":[{text}]}}', "a[0]"),
        (Rounded, f'{{"x":{text}}}', "x"),
    ]
    for annotation, json, path in shapes:
        with pytest.raises(PayloadError, match="is not a JSON number") as caught:
            ValueType.of(annotation).accept(Payload(json=json))
        assert caught.value.problems[0][0] == path


def test_an_infinite_number_in_a_part_without_a_field_or_in_a_complex_one_is_not_accepted() -> None:
    for annotation, json in ((Open, '{"x":1,"y":1e999}'), (complex, '"1e999j"'), (list[complex], '["1", "infj"]')):
        with pytest.raises(PayloadError, match="is not a JSON number"):
            ValueType.of(annotation).accept(Payload(json=json))


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (float, "1e308", 1e308),
        (float, "9" * 290 + "e-60", float("9" * 290 + "e-60")),
        (float, "0.5e10", 5e9),
        (complex, '"1e10+2j"', 1e10 + 2j),
        (float, '"1.5"', 1.5),
        (Any, '{"inf":"nan"}', {"inf": "nan"}),
        (str, '"1e999"', "1e999"),
        (int, "1" * 400, int("1" * 400)),
        (list[str], '["inf"]', ["inf"]),
        (float | None, "null", None),
    ],
)
def test_other_numbers_and_texts_are_accepted(annotation: Any, text: str, value: Any) -> None:
    assert ValueType.of(annotation).accept(Payload(json=text)) == value


# The proof by types.


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


def unfolded(moment: Any) -> Any:
    return moment.replace(fold=0)


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


@pytest.mark.parametrize("pair", EXACT, ids=lambda pair: str(pair[0]).replace("tests.unit.", ""))
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
