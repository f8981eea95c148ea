"""Recorded values: each comes back the same, or the codec refuses it where it is created."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import subprocess
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # its stubs are a package of their own
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from mendflow.codec import ValueType
from mendflow.errors import DefinitionError, PayloadError
from mendflow.v1 import failure_pb2, payload_pb2
from tests.support.codec_values import Cat, Item, finite, plain, round_trip, texts

Payload = payload_pb2.Payload


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Order(BaseModel):
    items: list[Item]
    made: datetime
    colour: Colour = Colour.RED
    limit: float | None = Field(default=None, alias="theLimit")


class Row(TypedDict, total=False):
    id: int
    level: Level


class Point(NamedTuple):
    x: int
    y: int


class Tree(BaseModel):
    children: list[Tree] = []


@dataclasses.dataclass
class Loose:
    data: Any


@dataclasses.dataclass
class Dog:
    name: str


@dataclasses.dataclass
class Holder:
    message: failure_pb2.Failure


@dataclasses.dataclass
class Bounded:
    share: Annotated[float, Field(ge=0, le=1)]
    kind: Literal["a", "b"] = "a"


decimals = st.decimals(allow_nan=False, allow_infinity=False)
items = st.builds(Item, texts, decimals, st.frozensets(texts, max_size=3), st.none() | texts)
moments = st.datetimes(timezones=st.none() | st.just(UTC)).map(lambda moment: moment.replace(fold=0))
orders = st.builds(
    lambda items, made, colour, limit: Order(items=items, made=made, colour=colour, theLimit=limit),
    st.lists(items, max_size=3),
    moments,
    st.sampled_from(Colour),
    st.none() | finite,
)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (float, finite),
    (str, texts),
    (None, st.none()),
    (datetime, moments),
    (date, st.dates()),
    (timedelta, st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000))),
    (Decimal, decimals),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Item, items),
    (Order, orders),
    (Row, st.fixed_dictionaries({}, optional={"id": st.integers(), "level": st.sampled_from(Level)})),
    (Point, st.builds(Point, st.integers(), st.integers())),
]


def generic(origin: Any, parts: Any) -> Any:
    return origin[parts]


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    annotation, values = draw(st.sampled_from(LEAVES))
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(st.sampled_from(["list", "dict", "tuple", "optional"]))
        if shape == "list":
            annotation, values = generic(list, annotation), st.lists(values, max_size=3)
        elif shape == "dict":
            annotation, values = generic(dict, (str, annotation)), st.dictionaries(texts, values, max_size=3)
        elif shape == "tuple":
            annotation, values = generic(tuple, (annotation, int)), st.tuples(values, st.integers())
        else:
            annotation, values = (None if annotation is None else annotation | None), st.none() | values
    return annotation, draw(values)


def problems_of(annotation: Any, text: str) -> tuple[tuple[str, str], ...]:
    with pytest.raises(PayloadError) as caught:
        ValueType.of(annotation).decode(Payload(json=text))
    return caught.value.problems


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the first draw builds the strategies
@given(typed_values())
def test_a_value_comes_back_the_same(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    back = round_trip(annotation, value)
    assert back == value
    assert type(back) is type(value)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the first draw builds the strategies
@given(typed_values())
def test_a_recorded_value_fits_the_published_schema_unless_that_is_narrower(pair: tuple[Any, Any]) -> None:
    annotation, value = pair
    value_type = ValueType.of(annotation)
    schema = json.loads(value_type.schema().json_schema)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = value_type.encode(value).json or "null"
    # pydantic's pattern for Decimal knows no exponent.
    if not any("pattern" in part for part in walk(schema)):
        Draft202012Validator(schema).validate(json.loads(text))


def walk(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        return [node, *(part for child in node.values() for part in walk(child))]
    return [part for child in node for part in walk(child)] if isinstance(node, list) else []


@given(plain)
def test_an_untyped_plain_value_comes_back_the_same(value: Any) -> None:
    back = round_trip(Any, value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        Item("a", Decimal(1)),
        Order(items=[], made=datetime(2020, 1, 1, tzinfo=UTC)),
        {1: "a"},
        {None: 1},
        {"a": {True: 1}},
        datetime(2020, 1, 1, tzinfo=UTC),
        Decimal(1),
        Level.LOW,
        Colour.RED,
        {1, 2},
        b"abc",
        Point(1, 2),
        [Cat("x")],
        pytest.param(object(), id="object()"),
        failure_pb2.Failure(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wrap", [lambda v: v, Loose], ids=["itself", "in a field"])
def test_an_untyped_value_that_would_come_back_as_another_is_refused(wrap: Any, value: Any) -> None:
    whole = wrap(value)
    with pytest.raises(PayloadError):
        ValueType.of(Loose if isinstance(whole, Loose) else Any).encode(whole)


def test_an_untyped_tuple_may_become_a_list() -> None:
    assert round_trip(Any, (1, (2, "a"))) == [1, [2, "a"]]


@pytest.mark.parametrize(
    ("annotation", "value"), [(Cat | Dog, Dog("x")), (str | datetime, datetime(2020, 1, 1, tzinfo=UTC))]
)
def test_a_union_member_that_would_come_back_as_another_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(PayloadError, match="would be decoded as"):
        ValueType.of(annotation).encode(value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int | str, "1"),
        (int | str, 1),
        (int | float, 1.0),
        (Cat | Item, Cat("x")),
        (bool | int, 1),
        (list[int] | int, [1]),
    ],
)
def test_a_union_member_comes_back_as_itself(annotation: Any, value: Any) -> None:
    back = round_trip(annotation, value)
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "1"),
        (int, None),
        (int, 1.5),
        (str, 1),
        (bool, 1),
        (None, 1),
        (list[int], (1,)),
        (list[int], [1, "a"]),
        (list[int], [1, None]),
        (Item, {"name": "a", "price": 1}),
        (Item, Item("a", 1.5)),  # type: ignore[arg-type] # the wrong type is the case
        (Item, Item(None, Decimal(1))),  # type: ignore[arg-type] # the wrong type is the case
        (Colour, "red"),
        (Bounded, Bounded(2.0)),
        (Bounded, Bounded(1.0, "c")),  # type: ignore[arg-type] # the wrong type is the case
        (str, "\ud800"),
        (bytes, b"\xff"),
        pytest.param(int, 10**5000, id="more digits than can be read"),
        (failure_pb2.Failure, None),
        (failure_pb2.Failure, Payload()),
        (failure_pb2.Failure, {}),
    ],
)
def test_a_value_that_does_not_fit_is_refused(annotation: Any, value: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        ValueType.of(annotation).encode(value)
    assert caught.value.problems


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("annotation", "wrap", "path"),
    [
        (float, lambda v: v, ""),
        (float | None, lambda v: v, ""),
        (Any, lambda v: v, ""),
        (list[float | None], lambda v: [None, 1.0, v], "[2]"),
        (dict[str, float], lambda v: {"NaN": 1.0, "b": v}, "b"),
        (Order, lambda v: Order(items=[], made=datetime(2020, 1, 1, tzinfo=UTC), theLimit=v), "theLimit"),
        (Loose, Loose, "data"),
    ],
)
def test_numbers_that_json_does_not_have_are_refused(annotation: Any, wrap: Any, path: str, number: float) -> None:
    with pytest.raises(PayloadError, match="is not a JSON number") as caught:
        ValueType.of(annotation).encode(wrap(number))
    assert caught.value.problems[0][0] == path


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "[NaN]", '{"NaN": NaN}'])
@pytest.mark.parametrize("annotation", [Any, float, list[float], dict[str, float], struct_pb2.Value])
def test_python_names_for_numbers_are_not_read(annotation: Any, text: str) -> None:
    assert problems_of(annotation, text)


def test_names_of_numbers_in_strings_are_read() -> None:
    assert round_trip(list[str], ["NaN", "Infinity", "null"]) == ["NaN", "Infinity", "null"]


@pytest.mark.parametrize("text", ["", " ", "{", '{"a":', "[1,]", "01", "'a'", "\ufeff1", '"\\ud800"', "1 2", "nul"])
def test_broken_json_is_refused_with_its_position(text: str) -> None:
    ((path, problem),) = problems_of(Any, text)
    assert path == ""
    assert "line 1 column" in problem


@pytest.mark.parametrize(
    "annotation", [Any, int, list[Any], dict[str, Any], Tree, failure_pb2.Failure, struct_pb2.Value]
)
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 5_000 + "]" * 5_000, '{"children":[' * 5_000])
def test_deep_json_is_refused(annotation: Any, text: str) -> None:
    assert problems_of(annotation, text)


@pytest.mark.parametrize("depth", [150, 250, 5_000])
def test_a_deep_value_is_recorded_only_if_it_can_be_read(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    value_type = ValueType.of(Any)
    if depth == 150:
        assert value_type.decode(value_type.encode(value)) == value
    else:
        with pytest.raises(PayloadError):
            value_type.encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PayloadError):
        ValueType.of(Any).encode(value)


def test_problems_name_their_places() -> None:
    text = '{"items":[{"name":"a","price":"1"},{"name":2,"price":"x"}],"made":"yesterday"}'
    places = [path for path, _ in problems_of(Order, text)]
    assert places == ["items[1].name", "items[1].price", "made"]
    assert problems_of(dict[str, int], '{"a b":"x"}')[0][0] == '["a b"]'


def test_the_problems_of_a_hostile_value_are_bounded() -> None:
    text = json.dumps(["x"] * 10_000)
    with pytest.raises(PayloadError) as caught:
        ValueType.of(list[int]).decode(Payload(json=text))
    assert len(caught.value.problems) == 20
    assert "and 9980 more" in str(caught.value)


@pytest.mark.parametrize("annotation", [None, Any, int | None, Item | None, failure_pb2.Failure | None])
def test_none_is_an_unset_payload_and_back(annotation: Any) -> None:
    value_type = ValueType.of(annotation)
    assert value_type.encode(None) == Payload()
    assert value_type.decode(None) is None
    assert value_type.decode(Payload()) is None
    assert value_type.decode(Payload(json="null")) is None


@pytest.mark.parametrize("annotation", [int, Item, failure_pb2.Failure])
def test_an_absent_value_does_not_fit_a_type_without_none(annotation: Any) -> None:
    with pytest.raises(PayloadError):
        ValueType.of(annotation).decode(None)


messages = st.builds(
    lambda type_, message, nanos: failure_pb2.Failure(
        type=type_, message=message, retry_after=duration_pb2.Duration(seconds=1, nanos=nanos)
    ),
    texts,
    texts,
    st.integers(0, 999_999_999),
)


@given(messages)
def test_a_message_comes_back_the_same(message: failure_pb2.Failure) -> None:
    assert round_trip(failure_pb2.Failure, message) == message
    assert round_trip(failure_pb2.Failure | None, message) == message


@pytest.mark.parametrize(
    "message",
    [timestamp_pb2.Timestamp(seconds=5), struct_pb2.Value(number_value=1), any_pb2.Any(type_url="a/b", value=b"x")],
)
def test_well_known_messages_come_back_the_same(message: Message) -> None:
    assert round_trip(type(message), message) == message


def test_a_message_is_read_from_json_strictly() -> None:
    value_type = ValueType.of(failure_pb2.Failure)
    assert value_type.decode(Payload(json='{"message":"a"}')) == failure_pb2.Failure(message="a")
    for text in ['{"nope":1}', "[]", "3", '{"message":1}', "{", '{"message":"a","message":"b"}', "null"]:
        assert problems_of(failure_pb2.Failure, text)


def test_only_the_annotated_message_is_unpacked() -> None:
    value_type = ValueType.of(failure_pb2.Failure)
    for url in ["type.googleapis.com/mendflow.v1.Payload", "mendflow.v1.Failure", "", "x/"]:
        with pytest.raises(PayloadError) as caught:
            value_type.decode(Payload(message=any_pb2.Any(type_url=url)))
        assert "mendflow.v1.Failure" in str(caught.value)
        assert url in str(caught.value)
    elsewhere = Payload(message=any_pb2.Any(type_url="example.org/mendflow.v1.Failure"))
    assert value_type.decode(elsewhere) == failure_pb2.Failure()
    with pytest.raises(PayloadError, match="bytes"):
        value_type.decode(Payload(message=any_pb2.Any(type_url="x/mendflow.v1.Failure", value=b"\xff\xff")))
    with pytest.raises(PayloadError, match="must be JSON"):
        ValueType.of(int).decode(elsewhere)


def test_a_message_type_publishes_its_name() -> None:
    assert ValueType.of(failure_pb2.Failure).schema().message_name == "mendflow.v1.Failure"


@pytest.mark.parametrize(
    "annotation", [Holder, list[failure_pb2.Failure], failure_pb2.Failure | int, object, Message, "Nope"]
)
def test_a_type_that_cannot_be_recorded_is_refused_at_once(annotation: Any) -> None:
    if annotation is object:
        annotation = subprocess.Popen
    with pytest.raises(DefinitionError):
        ValueType.of(annotation)


def test_sets_are_recorded_in_a_fixed_order() -> None:
    assert ValueType.of(set[int]).encode({10, 9, 1}).json == "[1,9,10]"
    assert ValueType.of(dict[str, list[set[str]]]).encode({"a": [{"y", "x"}]}).json == '{"a":[["x","y"]]}'
    assert ValueType.of(set[tuple[int, str]]).encode({(2, "a"), (1, "b")}).json == '[[1,"b"],[2,"a"]]'
    for annotation, value in [(set[frozenset[int]], {frozenset({1})}), (set[Cat | Item], {Item("a", Decimal(1))})]:
        with pytest.raises(PayloadError):
            ValueType.of(annotation).encode(value)
