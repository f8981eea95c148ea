"""A type without a message is refused with its path, and other types get names in protobuf's style."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pydantic
import pytest
from typing_extensions import TypedDict

from mendflow.codec import ValueType
from mendflow.codec.values import JsonType
from mendflow.protogen.exports import package_of
from mendflow.protogen.lock_file import LockFile, WorkflowSchemas, merge, spell
from mendflow.protogen.proto_writer import proto_text
from mendflow.protogen.scalars import Scalar
from mendflow.protogen.schema import MessageSchema, SchemaBuilder, camel, snake

T = TypeVar("T")


class Point(NamedTuple):
    x: int


class Open(pydantic.BaseModel, extra="allow"):
    a: int


class Masked(pydantic.BaseModel):
    a: int

    @pydantic.field_serializer("a")
    def hide(self, value: int) -> str:
        return str(value)


class TwoNames(pydantic.BaseModel):
    a: int = pydantic.Field(validation_alias="in", serialization_alias="out")

    @pydantic.model_validator(mode="before")
    @classmethod
    def rename(cls, members: Any) -> Any:
        return {"in": members["out"]}


class Millis(pydantic.BaseModel, ser_json_temporal="milliseconds"):
    a: dt.timedelta


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Twice(enum.Enum):
    Red = 1
    RED = 2


@dataclasses.dataclass
class Item:
    price: int | str


@dataclasses.dataclass
class Order:
    items: list[Item]
    by_key: dict[str, Item | int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Clash:
    line_a: int
    lineA: int  # noqa: N815 - the example


@dataclasses.dataclass
class Foreign:
    größe: int  # noqa: PLC2401 - the example


def whole(annotation: Any) -> tuple[MessageSchema, list[tuple[str, str]]]:
    builder = SchemaBuilder()
    value_type = ValueType.of(annotation)
    assert isinstance(value_type, JsonType)
    return builder.message_for(value_type, "workflow w input", "WInput", ""), builder.problems


@pytest.mark.parametrize(
    ("annotation", "path", "words"),
    [
        (Order, "Order.items[].price", "a union of several types"),
        (Order, "Order.by_key[]", "a union of several types"),
        (Any, "Any", "use a specific type"),
        (list, "list[]", "use a specific type"),
        (dict[str, Any], "dict[str, typing.Any][]", "use a specific type"),
        (dict[float, int], "dict[float, int][key]", "a map's key must be a string or an int"),
        (dict[bool, int], "dict[bool, int][key]", "a map's key must be a string or an int"),
        (tuple[int, str], "tuple[int, str]", "a tuple of fixed length"),
        (Point, "Point", "use a dataclass"),
        (Open, "Open", "accepts members with any name"),
        (Masked, "Masked.a", "a custom serializer"),
        (TwoNames, "TwoNames.a", "is written as 'out' but not read by that name"),
        (Millis, "Millis.a", "timedelta has no message type"),
        (Mode, "Mode", "flags"),
        (Twice, "Twice", "Twice.RED must be unique in upper case"),
        (Clash, "Clash.lineA", "the same field name as line_a"),
        (Foreign, "Foreign.größe", "ASCII"),
        (Literal["a", 1], "Literal['a', 1]", "literal has no message type"),
        (int | str | None, "int | str | None", "a union of several types"),
        (pydantic.JsonValue, "JsonValue", ""),
    ],
    ids=str,
)
def test_a_type_without_a_message_is_refused_with_its_path(annotation: Any, path: str, words: str) -> None:
    _, problems = whole(annotation)
    found = dict(problems)
    assert path in found or path == "JsonValue", found
    assert problems
    assert words in found.get(path, "")


def types_of(annotation: Any) -> dict[str, str]:
    """Return a record's fields as the .proto has them."""
    message, problems = whole(annotation)
    assert problems == []
    merge(LockFile(package="t.v1"), [WorkflowSchemas("w", message, None, {})])
    return {field.name: spell(field) for field in message.fields}


class Every(pydantic.BaseModel):
    a: int
    b: float
    c: bool
    d: str
    e: bytes
    f: dt.datetime
    g: dt.timedelta
    h: decimal.Decimal
    i: uuid.UUID
    j: dt.date
    k: dt.time
    l: pydantic.HttpUrl  # noqa: E741 - the example
    m: pathlib.Path
    n: ipaddress.IPv4Address
    o: Literal["x", "y"]
    p: Literal[1, 2]
    q: pydantic.NaiveDatetime
    r: pydantic.Base64Bytes
    s: Annotated[int, pydantic.Field(gt=0)]
    t: dict[int, str]
    u: dict[uuid.UUID, dt.datetime]
    v: set[dt.timedelta]
    w: list[list[int]]
    x: list[int | None]
    y: list[int] | None
    z: dict[str, list[int]]


def test_each_type_has_its_protobuf_type() -> None:
    assert types_of(Every) == {
        "a": "int64",
        "b": "double",
        "c": "bool",
        "d": "string",
        "e": "bytes",
        "f": "google.protobuf.Timestamp",
        "g": "google.protobuf.Duration",
        "h": "string",
        "i": "string",
        "j": "string",
        "k": "string",
        "l": "string",
        "m": "string",
        "n": "string",
        "o": "string",
        "p": "int64",
        "q": "string",
        "r": "bytes",
        "s": "int64",
        "t": "map<int64, string>",
        "u": "map<string, google.protobuf.Timestamp>",
        "v": "repeated google.protobuf.Duration",
        "w": "repeated WInputWItem",
        "x": "repeated WInputXItem",
        "y": "WInputYValue",
        "z": "map<string, WInputZValue>",
    }


class Page(pydantic.BaseModel, Generic[T]):
    entries: list[T]


class Named(TypedDict):
    camelCase: int
    HTTPServer: str


def test_names_are_in_protobufs_style() -> None:
    message, _ = whole(list[Page[int]])
    (page,) = [each for each in message.reachable() if isinstance(each, MessageSchema) and each.form == "record"]
    assert (page.preferred_name, page.source) == ("PageInt", f"{__name__}.Page[int]")
    assert list(types_of(Named)) == ["camel_case", "http_server"]
    assert [camel(name) for name in ("send_mail", "sendMail", "send-mail/2", "2fast")] == [
        "SendMail",
        "SendMail",
        "SendMail2",
        "T2fast",
    ]
    assert [snake(name) for name in ("orderId", "URL", "_private", "a_1", "HTTPPort")] == [
        "order_id",
        "url",
        "private",
        "a_1",
        "http_port",
    ]
    assert [package_of(name) for name in ("shop.orders", "my-app._tasks.2024", "Shop")] == [
        "shop.orders.v1",
        "my_app.tasks.m2024.v1",
        "shop.v1",
    ]


@dataclasses.dataclass
class WInput:
    """Has the name that its message would get."""

    a: int
    inner: WInput | None = None


def test_a_class_of_the_messages_own_name_is_that_message() -> None:
    message, problems = whole(WInput)
    assert (message.preferred_name, problems, list(message.reachable())) == ("WInput", [], [message])
    assert message.fields[1].type is message


@dataclasses.dataclass
class Commented:
    """What it is.

    And more of it.
    """

    a: int
    """Its number."""
    b: Literal["x", "y"] = "x"
    """How."""
    #: How much
    #: of it.
    c: decimal.Decimal = decimal.Decimal(0)


@dataclasses.dataclass
class Silent:
    a: int


def test_comments_come_from_docstrings() -> None:
    message, _ = whole(dict[str, Commented])
    lock = merge(LockFile(package="t.v1"), [WorkflowSchemas("w", message, None, {})]).lock
    text = proto_text(lock, message.reachable(), "t", [])
    assert (
        "// What it is.\n//\n// And more of it.\nmessage Commented {\n  // Its number.\n  optional int64 a = 1;\n"
        '  // How.\n  // One of "x", "y".\n  optional string b = 2;\n'
        '  // How much\n  // of it.\n  // A decimal number, such as "12.50".\n'
        "  optional string c = 3;\n}\n"
    ) in text
    assert whole(list[Silent])[0].fields[0].type.comment == ""  # type: ignore[union-attr]
    assert not isinstance(whole(Commented)[0].fields[0].type, MessageSchema)
    assert isinstance(whole(Commented)[0].fields[0].type, Scalar)
