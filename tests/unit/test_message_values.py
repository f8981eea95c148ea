"""JSON and the exported message of a type have the same value, and the .proto matches the server's descriptors."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired

import grpc_tools
import pydantic
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool
from grpc_tools import protoc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from mendflow.codec import ValueType
from mendflow.codec.difference import difference
from mendflow.codec.values import JsonType
from mendflow.errors import PayloadError
from mendflow.protogen.descriptors import Descriptors, file_name
from mendflow.protogen.json_codec import JsonCodec
from mendflow.protogen.lock_file import LockFile, WorkflowSchemas, merge
from mendflow.protogen.proto_writer import proto_text
from mendflow.protogen.schema import MessageSchema, SchemaBuilder
from mendflow.v1 import payload_pb2
from tests.support.scale import scaled

if TYPE_CHECKING:
    from collections.abc import Callable

#: A payload of a caller that uses messages.
A_MESSAGE = payload_pb2.Payload(message=any_pb2.Any(type_url="/a"))
# A type checker does not accept types that are made at run time.
LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
create_model: Any = pydantic.create_model


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    DARK_BLUE = "dark blue"


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 10


@dataclasses.dataclass
class Tree:
    """A tree."""

    name: str
    """What it is called."""
    branches: list[Tree] = dataclasses.field(default_factory=list)
    beside: Tree | None = None


class Aliased(pydantic.BaseModel):
    """Has other names in JSON."""

    total: int = pydantic.Field(alias="theTotal", description="The sum.")
    raw: bytes = b"x"
    web_safe: pydantic.Base64UrlBytes = b""


class Computed(pydantic.BaseModel):
    """Has a field that is only written."""

    a: int
    others: pydantic.RootModel[list[int]]

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy knows no decorator above a property
    @property
    def twice(self) -> str:
        return str(self.a * 2)


class Note(TypedDict):
    text: str
    tags: NotRequired[list[str]]
    weight: NotRequired[float | None]


def unfolded(moment: dt.datetime) -> dt.datetime:
    return moment.replace(fold=0)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)
first, last = dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)  # noqa: DTZ001 - the zone is drawn
years = dt.timedelta(days=3_652_000)
trees: st.SearchStrategy[Tree] = st.deferred(
    lambda: st.builds(Tree, texts, st.lists(trees, max_size=2), st.none() | trees)
)
aliased = st.builds(
    lambda total, raw, web: Aliased.model_validate(
        {"theTotal": total, "raw": raw.encode(), "web_safe": base64.urlsafe_b64encode(web)}
    ),
    int64,
    texts,
    st.binary(max_size=8),
)

notes = st.fixed_dictionaries(
    {"text": texts},
    optional={
        "tags": st.lists(texts, max_size=2),
        "weight": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    },
)

#: A type, and its values.
Pair = tuple[Any, st.SearchStrategy[Any]]
LEAVES: list[Pair] = [
    (int, int64),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (str, texts),
    (dt.datetime, st.datetimes(first, last, timezones=st.just(dt.UTC)).map(unfolded)),
    (pydantic.NaiveDatetime, st.datetimes().map(unfolded)),
    (dt.timedelta, st.timedeltas(-years, years)),
    (dt.date, st.dates()),
    (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Tree, trees),
    (Aliased, aliased),
    (set[int], st.sets(int64, max_size=3)),
    (frozenset[str], st.frozensets(texts, max_size=3)),
    (Note, notes),
    (Computed, st.builds(lambda a, others: Computed(a=a, others=others), int64, st.lists(int64, max_size=2))),
]
KEYS: list[Pair] = [(str, texts), (int, int64), (uuid.UUID, st.uuids()), (Colour, st.sampled_from(Colour))]


def containers(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    keys = st.sampled_from(KEYS)
    return st.one_of(
        inner.map(lambda p: (LIST[p[0]], st.lists(p[1], max_size=3))),
        inner.map(lambda p: (TUPLE[p[0], ...], st.lists(p[1], max_size=3).map(tuple))),
        inner.map(lambda p: (p[0] | None, st.none() | p[1])),
        st.tuples(keys, inner).map(lambda p: (DICT[p[0][0], p[1][0]], st.dictionaries(p[0][1], p[1][1], max_size=3))),
        st.lists(inner, min_size=1, max_size=4).flatmap(records),
    )


def always(value: Any) -> Callable[[], Any]:
    return lambda: value


@st.composite
def records(draw: st.DrawFn, fields: list[Pair]) -> Pair:
    """Return a dataclass or a pydantic model with these fields, some with defaults."""
    spec: list[tuple[str, Any, Any]] = []
    for index, (annotation, values) in enumerate(fields):
        default = draw(st.none() | values.map(lambda value: (value,)))
        spec.append((f"field_{'abcd'[index]}", annotation, default))
    spec.sort(key=lambda field: field[2] is not None)
    strategies = {name: values for (name, _, _), (_, values) in zip(sorted(spec), fields, strict=True)}
    if draw(st.booleans()):
        made: Any = create_model(
            "Drawn",
            **{name: (annotation, ... if default is None else default[0]) for name, annotation, default in spec},
        )
    else:
        make: Any = dataclasses.make_dataclass
        made = make(
            "Drawn",
            [
                (name, annotation)
                if default is None
                else (name, annotation, dataclasses.field(default_factory=always(default[0])))
                for name, annotation, default in spec
            ],
        )
    optional = {name: strategies[name] for name, _, default in spec if default is not None}
    required = {name: values for name, values in strategies.items() if name not in optional}
    return made, st.fixed_dictionaries(required, optional=optional).map(lambda members: made(**members))


pairs = st.recursive(st.sampled_from(LEAVES), containers, max_leaves=5)


def shape_of(annotation: Any) -> tuple[JsonType[Any], MessageSchema, LockFile]:
    """Return the type, its message, and a new lock that contains it."""
    value_type = ValueType.of(annotation)
    assert isinstance(value_type, JsonType)
    builder = SchemaBuilder()
    message = builder.message_for(value_type, "workflow draw input", "DrawInput", "What it takes.")
    assert builder.problems == []
    shapes = WorkflowSchemas("draw", message, None, {})
    return value_type, message, merge(LockFile(package="tests.drawn.v1"), [shapes]).lock


def form_of(message: MessageSchema, lock: LockFile) -> JsonCodec:
    return JsonCodec(message, Descriptors(lock), {name: each.values for name, each in lock.enums.items()})


def compiled(lock: LockFile, message: MessageSchema) -> descriptor_pb2.FileDescriptorProto:
    """Return what protoc makes of the .proto."""
    descriptors = Descriptors(lock)
    text = proto_text(lock, message.reachable(), "tests.drawn", descriptors.file.dependency)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_name(lock)
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
        result = Path(folder) / "set.bin"
        known = Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{folder}", f"-I{known}", f"--descriptor_set_out={result}", str(path)]
        assert protoc.main(arguments) == 0, text
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes()).file
    return file


def plain(file: descriptor_pb2.FileDescriptorProto) -> dict[str, Any]:
    """Return a file's content by name. protoc writes the JSON names, and the order of messages has no meaning."""

    def strip(message: descriptor_pb2.DescriptorProto) -> bytes:
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            strip(nested)
        message.nested_type.sort(key=lambda each: each.name)
        return message.SerializeToString(deterministic=True)

    return {
        "messages": {message.name: strip(message) for message in file.message_type},
        "enums": {each.name: each.SerializeToString() for each in file.enum_type},
        "rest": (file.name, file.package, file.syntax, sorted(file.dependency), file.options.SerializeToString()),
    }


@settings(
    max_examples=scaled(50, 5_000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    deadline=None,
)
@given(data=st.data(), pair=pairs)
def test_json_and_message_have_the_same_value(data: st.DataObject, pair: Pair) -> None:
    annotation, values = pair
    value_type, message, lock = shape_of(annotation)
    form = form_of(message, lock)
    with_codec = value_type.with_message_codec(lambda: form)
    for _ in range(3):
        value = data.draw(values)
        as_json = with_codec.encode(value)
        as_message = with_codec.answer(value, A_MESSAGE)
        assert as_message.WhichOneof("kind") == "message"
        from_json, from_message = with_codec.decode(as_json), with_codec.decode(as_message)
        assert difference(from_json, from_message) is None
        assert difference(value, from_message) is None
        # A value decoded from a message encodes to the same message.
        assert with_codec.answer(from_message, as_message) == as_message


@pytest.mark.parametrize("offset", [dt.timedelta(hours=5, minutes=30), dt.timedelta(hours=-8)])
def test_a_message_has_the_moment_of_a_datetime_without_its_offset(offset: dt.timedelta) -> None:
    value_type, message, lock = shape_of(dt.datetime)
    form = form_of(message, lock)
    moment = dt.datetime(2020, 1, 1, 12, tzinfo=dt.timezone(offset))
    with_codec = value_type.with_message_codec(lambda: form)
    from_message = with_codec.decode(with_codec.answer(moment, A_MESSAGE))
    assert from_message == moment
    assert from_message.utcoffset() == dt.timedelta(0)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(pair=pairs)
def test_the_proto_compiles_to_the_descriptors_that_are_made_of_the_lock(pair: Pair) -> None:
    _, message, lock = shape_of(pair[0])
    assert plain(compiled(lock, message)) == plain(Descriptors(lock).file)
    assert LockFile.model_validate_json(lock.text()) == lock


def one(annotation: Any, **fields: Any) -> Any:
    """Return the value of a message of this type with these fields."""
    value_type, message, lock = shape_of(annotation)
    form = form_of(message, lock)
    built = Descriptors(lock).message(message.name)(**fields)
    payload = payload_pb2.Payload()
    payload.message.Pack(built)
    return value_type.with_message_codec(lambda: form).decode(payload)


@dataclasses.dataclass
class Defaults:
    count: int = 5
    ratio: float | None = None
    either: int | None = 7
    names: list[str] = dataclasses.field(default_factory=lambda: ["x"])
    empty: list[str] = dataclasses.field(default_factory=list)
    colour: Colour = Colour.RED


def test_a_field_that_is_not_set_has_its_default_and_zero_is_not_absence() -> None:
    assert one(Defaults) == Defaults()
    assert one(Defaults, count=0, either={}, names={}, ratio=0.0) == Defaults(count=0, either=None, names=[], ratio=0.0)
    assert one(Defaults, either={"value": 0}, names={"values": ["y"]}, colour=2) == Defaults(
        either=0, names=["y"], colour=Colour.DARK_BLUE
    )


@dataclasses.dataclass
class Required:
    count: int
    colour: Colour
    maybe: int | None
    names: list[str]
    when: dt.datetime | None = None


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"colour": 1}, "count", "required"),
        ({"count": 0}, "colour", "required"),
        ({"count": 0, "colour": 0}, "colour", "UNSPECIFIED"),
        ({"count": 0, "colour": 9}, "colour", "9 is not a value of Colour"),
        ({"count": 0, "colour": 1, "when": {"seconds": 1 << 60}}, "when", "Timestamp"),
        ({"count": 0, "colour": 1, "when": {"nanos": -1}}, "when", "nanos"),
    ],
)
def test_what_a_message_lacks_or_has_wrong_is_named(fields: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        one(Required, **fields)
    ((place, problem),) = caught.value.problems
    assert (place, words.lower() in problem.lower()) == (path, True), problem


def test_an_absent_nullable_field_is_null_and_an_absent_list_is_empty() -> None:
    assert one(Required, count=0, colour=1) == Required(0, Colour.RED, None, [])


@pytest.mark.parametrize(("annotation", "bad"), [(float, float("nan")), (float, float("inf")), (bytes, b"\xff")])
def test_a_value_that_json_cannot_express_is_refused(annotation: Any, bad: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        one(LIST[annotation], value=[bad])
    assert caught.value.problems[0][0] == "value[0]"


def test_bytes_that_are_no_such_message_are_refused() -> None:
    value_type, message, lock = shape_of(Required)
    form = form_of(message, lock)
    payload = payload_pb2.Payload()
    payload.message.type_url = f"type.googleapis.com/{form.name}"
    payload.message.value = b"\xff\xff"
    with pytest.raises(PayloadError, match="its bytes are not a"):
        value_type.with_message_codec(lambda: form).decode(payload)
    for url in ("", "DrawInput", "type.googleapis.com/other.DrawInput", "/"):
        payload.message.type_url = url
        with pytest.raises(PayloadError, match="must be JSON or the message"):
            value_type.with_message_codec(lambda: form).decode(payload)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 1 << 63),
        (dt.datetime, dt.datetime(2030, 1, 1)),  # noqa: DTZ001
        (dt.timedelta, dt.timedelta.max),
    ],
)
def test_a_result_that_the_message_cannot_hold_comes_as_json(annotation: Any, value: Any) -> None:
    value_type, message, lock = shape_of(annotation)
    form = form_of(message, lock)
    with_codec = value_type.with_message_codec(lambda: form)
    answer = with_codec.answer(value, A_MESSAGE)
    assert answer == with_codec.encode(value)
    assert with_codec.decode(answer) == value


def test_a_result_too_deep_for_any_receiver_comes_as_json() -> None:
    value_type, message, lock = shape_of(Tree)
    form = form_of(message, lock)
    deep = Tree("leaf")
    for _ in range(120):
        deep = Tree("inner", beside=deep)
    with_codec = value_type.with_message_codec(lambda: form)
    assert with_codec.answer(deep, A_MESSAGE).WhichOneof("kind") == "json"


def test_a_json_caller_is_answered_in_json() -> None:
    value_type, message, lock = shape_of(int)
    form = form_of(message, lock)
    with_codec = value_type.with_message_codec(lambda: form)
    for asked in (None, payload_pb2.Payload(), payload_pb2.Payload(json="1")):
        assert with_codec.answer(2, asked) == payload_pb2.Payload(json="2")


def test_the_descriptors_are_in_a_separate_pool() -> None:
    _, _, lock = shape_of(Tree)
    assert Descriptors(lock).message("Tree").DESCRIPTOR.full_name == "tests.drawn.v1.Tree"
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("tests.drawn.v1.Tree")
