"""What a message for a Python type looks like: names, labels, types, but no numbers (the lock has those).

The source is pydantic's core schema, since that is what reads and writes the
JSON: what pydantic calls a member, and what it makes of absence, is what the
message must tell too.

Every field that stands alone has presence, so that one that was forgotten is
told from one that is zero, as in JSON. Where protobuf has no place for
something (a list of lists, null in a list, an empty list where the default is
another), a message of one field goes between.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import PydanticSerializationError, to_jsonable_python

from mendflow.codec.values import JsonType, adapter_of
from mendflow.errors import DefinitionError
from mendflow.protogen.comments import documentation, field_comments
from mendflow.protogen.scalars import BOOL, DOUBLE, INT64, Leaf, leaf_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Choice", "Field", "Message", "Shaper", "camel", "snake"]

#: Deeper than any type that ends.
_DEEPEST: Final = 60
_LISTS: Final = frozenset({"list", "set", "frozenset", "tuple"})
_RECORDS: Final = frozenset({"model", "dataclass", "typed-dict"})
#: Where the schema inside of another is.
_WRAPPINGS: Final = {
    "function-before": "schema",
    "function-after": "schema",
    "function-wrap": "schema",
    "custom-error": "schema",
    "json-or-python": "json_schema",
    "lax-or-strict": "lax_schema",
}
_REFUSALS: Final = {
    "any": "Any has no type of message: say what it is",
    "union": "a union of several types has no type of message: use one type, or one type and None",
    "tagged-union": "a union of several types has no type of message: use one class with optional fields",
    "tuple": "a tuple of fixed places has no type of message: use a dataclass",
    "named-tuple": "a named tuple has no type of message: use a dataclass",
    "call": "it has no type of message: use a dataclass",
    "none": "None alone has no type of message",
}
_HINTS: Final = {
    "decimal": 'A decimal number, as in "12.50".',
    "uuid": "A UUID.",
    "date": "A date, as in 2030-01-31.",
    "time": "A time of day, as in 12:30:00.",
}
_is_identifier: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*").fullmatch


@dataclass(eq=False)
class Field:
    """A field of a message."""

    name: str
    #: What JSON calls it.
    member: str
    label: Literal["", "repeated", "map"]
    type: Leaf | Message | Choice
    #: The type of a map's keys.
    key: str = ""
    #: Absence is null, rather than no member.
    nullable: bool = False
    #: It is computed: never read.
    output_only: bool = False
    comment: str = ""


@dataclass(eq=False)
class Message:
    """A message. ``name`` is set by the lock, which knows what names are taken."""

    #: What of the code it is made from; the lock finds it again by that.
    origin: str
    #: The name it would like.
    base: str
    #: record: an object with a member a field; value: what its one field is; null: nothing.
    form: Literal["record", "value", "null"]
    fields: list[Field] = field(default_factory=list)
    comment: str = ""
    name: str = ""

    def reachable(self) -> Iterator[Message | Choice]:
        """Yield this and every message and enum in it, each once, in the order of the fields."""
        seen: set[int] = set()
        waiting: list[Message | Choice] = [self]
        while waiting:
            each = waiting.pop(0)
            if id(each) not in seen:
                seen.add(id(each))
                yield each
                if isinstance(each, Message):
                    waiting += [part.type for part in each.fields if not isinstance(part.type, Leaf)]


@dataclass(eq=False)
class Choice:
    """An enum: the JSON value of each member, by the member's name in capitals."""

    origin: str
    base: str
    members: dict[str, Any]
    comment: str = ""
    name: str = ""


@dataclass(frozen=True)
class _Opened:
    """A schema without its wrappings."""

    schema: Any
    config: Any
    nullable: bool = False
    #: What absence means in JSON: required, null, empty (an empty container) or other.
    default: Literal["required", "null", "empty", "other"] = "required"

    @property
    def kind(self) -> str:
        return str(self.schema["type"])

    @property
    def is_container(self) -> bool:
        if self.kind == "tuple":
            return len(self.schema["items_schema"]) == 1 and self.schema.get("variadic_item_index") == 0
        return self.kind in _LISTS or self.kind == "dict"


@dataclass(frozen=True)
class _Place:
    """Where in the types one is: for messages to people, and for names of what goes between."""

    path: str
    origin: str
    base: str
    depth: int = 0

    def at(self, path: str, origin: str, base: str) -> _Place:
        return _Place(self.path + path, self.origin + origin, self.base + base, self.depth + 1)


class Shaper:
    """Makes messages of types; a class becomes one message wherever it is met.

    ``problems`` has (path, what) for each place that a message cannot tell.
    """

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self._definitions: dict[str, Any] = {}
        #: By pydantic's reference, which has the type's address: two classes may share a name.
        self._made: dict[Any, Message | Choice] = {}

    def whole(self, value_type: JsonType[Any] | None, origin: str, base: str, comment: str) -> Message:
        """Answer the message of a whole input, output or signal. None: there is no value."""
        if value_type is None:
            return Message(origin, base, "null", comment=comment)
        opened = self._open(adapter_of(value_type.member, value_type.name).core_schema, {})
        if opened.kind == "none":
            return Message(origin, base, "null", comment=comment)
        place = _Place(value_type.name, origin, base)
        if opened.kind in _RECORDS and not opened.nullable and not _has_serializer(opened.schema):
            cls = opened.schema.get("cls")
            place = replace(place, path=getattr(cls, "__name__", place.path))
            if camel(place.path) == base:
                return self._record(opened, place)
            about = documentation(cls)
            message = Message(origin, base, "record", comment=f"{comment}\n\n{about}" if about else comment)
            self._fill(message, opened, place)
            return message
        message = Message(origin, base, "value", comment=comment)
        message.fields.append(self._field("value", "", opened, place))
        return message

    # One field.

    def _field(self, name: str, member: str, opened: _Opened, place: _Place) -> Field:
        if place.depth > _DEEPEST:
            self._refuse(place, "is nested in itself without a class: give it one")
            return Field(name, member, "", BOOL)
        telling = opened.nullable and opened.default == "other"
        if telling or (opened.is_container and (opened.nullable or opened.default == "other")):
            # Presence is taken: a message between has a presence of its own.
            inner = replace(opened, default="required", nullable=opened.nullable and opened.default == "other")
            between = self._between(inner, place.at("", "", "Value"))
            return Field(name, member, "", between, nullable=opened.nullable and opened.default != "other")
        if opened.kind == "dict":
            return self._map(name, member, opened, place)
        if opened.is_container:
            items = opened.schema.get("items_schema", {"type": "any"})
            item = items[0] if isinstance(items, list) else items
            return Field(name, member, "repeated", self._element(item, opened.config, place.at("[]", "[]", "Item")))
        return Field(name, member, "", self._single(opened, place), nullable=opened.nullable, comment=_hint(opened))

    def _map(self, name: str, member: str, opened: _Opened, place: _Place) -> Field:
        schema = opened.schema
        values = schema.get("values_schema", {"type": "any"})
        key = self._open(schema.get("keys_schema", {"type": "any"}), opened.config)
        element = self._element(values, opened.config, place.at("[]", "[]", "Value"))
        return Field(name, member, "map", element, key=self._key(key, place.at("[key]", "", "")))

    def _key(self, opened: _Opened, place: _Place) -> str:
        if opened.kind == "enum":
            kind = None if all(isinstance(each.value, str) for each in opened.schema["members"]) else BOOL
        else:
            kind = BOOL if opened.nullable else leaf_of(opened.schema, opened.config) or BOOL
        if kind in (BOOL, DOUBLE):
            self._refuse(place, "a map's key must be a string or an int")
        return "int64" if kind is INT64 else "string"

    def _element(self, schema: Any, config: Any, place: _Place) -> Leaf | Message | Choice:
        opened = self._open(schema, config)
        if opened.nullable or opened.is_container:
            return self._between(replace(opened, default="required"), place)
        return self._single(opened, place)

    def _between(self, opened: _Opened, place: _Place) -> Message:
        what = "A value, or null when it has none" if opened.nullable else "A list or a map with presence of its own"
        message = Message(place.origin, place.base, "value", comment=f"{what}.")
        name = "value" if opened.nullable or not opened.is_container else "values"
        message.fields.append(self._field(name, "", opened, place.at("", "", "")))
        return message

    def _single(self, opened: _Opened, place: _Place) -> Leaf | Message | Choice:
        if opened.kind == "enum":
            return self._choice(opened.schema, place)
        if opened.kind in _RECORDS and not _has_serializer(opened.schema):
            return self._record(opened, place)
        leaf = leaf_of(opened.schema, opened.config)
        if leaf is not None:
            return leaf
        if _has_serializer(opened.schema):
            self._refuse(place, "what is written (a serializer of its own) is no scalar that is read alike")
        else:
            self._refuse(place, _REFUSALS.get(opened.kind, f"pydantic's {opened.kind} has no type of message"))
        return BOOL

    # Classes.

    def _choice(self, schema: Any, place: _Place) -> Choice:
        cls = schema["cls"]
        made = self._made.get(cls)
        if isinstance(made, Choice):
            return made
        origin = f"{cls.__module__}.{cls.__qualname__}"
        choice = self._made[cls] = Choice(origin, camel(cls.__name__), {}, documentation(cls))
        if issubclass(cls, enum.Flag):
            self._refuse(place, "flags have no type of message")
        values = set()
        for member in schema["members"]:
            name = member.name.upper()
            value = _json_scalar(member.value)
            if value is None:
                self._refuse(place, f"the value of {cls.__name__}.{member.name} is no string, int or float")
            elif not re.fullmatch(r"[A-Z0-9_]+", name) or name == "UNSPECIFIED" or name in choice.members:
                self._refuse(place, f"{cls.__name__}.{member.name} has no name in an enum, or one that is taken")
            elif (type(value), value) in values:
                self._refuse(place, f"{cls.__name__} has two members of the value {value!r}")
            else:
                values.add((type(value), value))
                choice.members[name] = value
        return choice

    def _record(self, opened: _Opened, place: _Place) -> Message:
        schema = opened.schema
        cls = schema.get("cls")
        key = schema.get("ref", cls)
        made = self._made.get(key)
        if isinstance(made, Message):
            return made
        # The reference has the type's arguments too, each with its address.
        origin = re.sub(r":\d+", "", schema.get("ref", "")) or f"{cls.__module__}.{cls.__qualname__}"
        base = camel(getattr(cls, "__name__", "Record"))
        message = self._made[key] = Message(origin, base, "record", comment=documentation(cls))
        self._fill(message, opened, replace(place, origin=origin, base=base))
        return message

    def _fill(self, message: Message, opened: _Opened, place: _Place) -> None:
        fields, config = _fields_of(opened)
        if config.get("extra_fields_behavior") == "allow" or opened.schema.get("extra_behavior") == "allow":
            self._refuse(place, "takes members of any name, which a message cannot")
        comments = field_comments(opened.schema.get("cls"))
        for name, schema in fields:
            here = place.at(f".{name}", f".{name}", camel(name))
            computed = "return_schema" in schema
            part = self._open(schema["return_schema"] if computed else schema["schema"], config)
            if schema.get("required") is False:
                part = replace(part, default="other")
            made = self._field(snake(name), _member(name, schema, config, here, self.problems), part, here)
            made.output_only = computed or schema.get("init") is False
            made.comment = "\n".join(filter(None, (comments.get(name, ""), made.comment)))
            self._check_name(message, made, here)
            message.fields.append(made)

    def _check_name(self, message: Message, made: Field, place: _Place) -> None:
        if not _is_identifier(made.name):
            self._refuse(place, "its name is no name of a field: ASCII letters, digits and _")
        for other in message.fields:
            # protoc compares the names that JSON gives them.
            if camel(other.name).lower() == camel(made.name).lower():
                self._refuse(place, f"as a field it has the name of {other.member}: {made.name}")

    # Wrappings.

    def _open(self, schema: Any, config: Any) -> _Opened:
        opened = _Opened(schema, config)
        for _ in range(_DEEPEST):
            inner = self._inner(opened)
            if inner is None:
                break
            opened = inner
        return opened

    def _inner(self, opened: _Opened) -> _Opened | None:
        """Answer what is inside the outermost wrapping; None: it has none."""
        schema, kind = opened.schema, opened.kind
        if kind == "definitions":
            self._definitions.update({each["ref"]: each for each in schema["definitions"]})
        elif kind == "definition-ref":
            return replace(opened, schema=self._definitions[schema["schema_ref"]])
        elif kind == "default":
            opened = replace(opened, default=_default(schema))
        elif _has_serializer(schema):
            return None
        elif kind == "nullable":
            opened = replace(opened, nullable=True)
        elif kind == "model" and schema.get("root_model"):
            opened = replace(opened, config=schema.get("config", {}))
        elif kind not in _WRAPPINGS:
            return None
        return replace(opened, schema=schema[_WRAPPINGS.get(kind, "schema")])

    def _refuse(self, place: _Place, problem: str) -> None:
        self.problems.append((place.path, problem))


def _fields_of(opened: _Opened) -> tuple[list[tuple[str, Any]], Any]:
    """Answer a class's fields by their Python names, and its config."""
    schema = opened.schema
    config = schema.get("config") or opened.config
    inner = schema
    # Validators of the whole class lie around its fields.
    while "schema" in inner and inner["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
        inner = inner["schema"]
    if inner["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
        raise DefinitionError(f"pydantic tells nothing of the fields of {schema.get('cls')}")
    fields = inner["fields"]
    named = [(each["name"], each) for each in fields] if isinstance(fields, list) else list(fields.items())
    return named + [(each["property_name"], each) for each in inner.get("computed_fields", ())], config


def _member(name: str, schema: Any, config: Any, place: _Place, problems: list[tuple[str, str]]) -> str:
    """Answer what JSON calls a field."""
    if "return_schema" in schema:
        return str(schema.get("alias", name))
    written = str(schema.get("serialization_alias", name))
    alias = schema.get("validation_alias", name)
    if isinstance(alias, str):
        read = {alias}
    else:
        # One path, or several to choose from.
        paths = alias if all(isinstance(part, list) for part in alias) else [alias]
        read = {path[0] for path in paths if len(path) == 1}
    if config.get("populate_by_name") or config.get("validate_by_name"):
        read.add(name)
    if written not in read:
        problems.append((place.path, f"is written as {written!r} and not read so: give it one alias"))
    return written


def _default(schema: Any) -> Literal["null", "empty", "other"]:
    if "default" in schema:
        value = schema["default"]
        if value is None:
            return "null"
        return "empty" if isinstance(value, list | tuple | dict | set | frozenset) and not value else "other"
    return "empty" if schema.get("default_factory") in (list, tuple, dict, set, frozenset) else "other"


def _has_serializer(schema: Any) -> bool:
    serialization = schema.get("serialization")
    return serialization is not None and str(serialization.get("type", "")).startswith(("function", "to-", "format"))


def _hint(opened: _Opened) -> str:
    """Answer what else a field's type does not say."""
    if opened.kind == "literal":
        values = [json.dumps(to_jsonable_python(each), ensure_ascii=False) for each in opened.schema["expected"]]
        return f"One of {', '.join(values)}."
    return _HINTS.get(opened.kind, "")


def _json_scalar(value: Any) -> Any:
    try:
        told = to_jsonable_python(value)
    except PydanticSerializationError:
        return None
    return told if type(told) in (str, int, float) else None


def camel(name: str) -> str:
    """Answer a name as protobuf's messages have them: SendCampaign."""
    parts = re.split(r"[^A-Za-z0-9]+", name)
    joined = "".join(part[:1].upper() + part[1:] for part in parts if part)
    return joined if joined[:1].isalpha() else f"T{joined}"


def snake(name: str) -> str:
    """Answer a name as protobuf's fields have them: order_id."""
    if name.islower():
        return name.lstrip("_")
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name))
    return split.lower().lstrip("_")
