"""The protobuf messages for Python types: names, labels and types. The lock file has the field numbers.

The messages are derived from pydantic's core schema, because pydantic reads and
writes the JSON. A message must use pydantic's member names and give absence the
same meaning.

Every singular field has presence, so that a missing value differs from zero, as
in JSON. Where protobuf cannot express a value (a list of lists, null in a list,
an empty list where the default is not empty), a wrapper message with one field
holds it.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import PydanticSerializationError, to_jsonable_python

from mendflow.codec.unrecordable import names_read
from mendflow.codec.values import JsonType, adapter_of
from mendflow.errors import DefinitionError
from mendflow.protogen.comments import documentation, field_comments
from mendflow.protogen.scalars import BOOL, DOUBLE, INT64, Scalar, scalar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EnumSchema", "FieldSchema", "MessageSchema", "SchemaBuilder", "camel", "snake"]

#: Nesting beyond this limit means that a type contains itself.
_DEEPEST: Final = 60
_LIST_KINDS: Final = frozenset({"list", "set", "frozenset", "tuple"})
_RECORD_KINDS: Final = frozenset({"model", "dataclass", "typed-dict"})
#: The member that holds the inner schema, by the kind of the outer schema.
_WRAPPINGS: Final = {
    "function-before": "schema",
    "function-after": "schema",
    "function-wrap": "schema",
    "custom-error": "schema",
    "json-or-python": "json_schema",
    "lax-or-strict": "lax_schema",
}
_REFUSALS: Final = {
    "any": "Any has no message type; use a specific type",
    "union": "a union of several types has no message type; use one type, or one type and None",
    "tagged-union": "a union of several types has no message type; use one class with optional fields",
    "tuple": "a tuple of fixed length has no message type; use a dataclass",
    "named-tuple": "a named tuple has no message type; use a dataclass",
    "call": "this type has no message type; use a dataclass",
    "none": "None alone has no message type",
}
_HINTS: Final = {
    "decimal": 'A decimal number, such as "12.50".',
    "uuid": "A UUID.",
    "date": "A date, such as 2030-01-31.",
    "time": "A time of day, such as 12:30:00.",
}
_is_identifier: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*").fullmatch


@dataclass(eq=False)
class FieldSchema:
    """A field of a message."""

    name: str
    #: The member's name in JSON.
    member: str
    label: Literal["", "repeated", "map"]
    type: Scalar | MessageSchema | EnumSchema
    #: The type of a map's keys.
    key: str = ""
    #: True if an absent field is null in JSON, instead of a missing member.
    nullable: bool = False
    #: True for a computed field, which is never read.
    output_only: bool = False
    comment: str = ""


@dataclass(eq=False)
class MessageSchema:
    """A message. The lock file sets ``name``, because it knows the names in use."""

    #: The type in the code. The lock file identifies the message by it.
    source: str
    #: The name to use if it is free.
    preferred_name: str
    #: record: a JSON object with a member for each field; value: the JSON of the only field; null: JSON null.
    form: Literal["record", "value", "null"]
    fields: list[FieldSchema] = field(default_factory=list)
    comment: str = ""
    name: str = ""

    def reachable(self) -> Iterator[MessageSchema | EnumSchema]:
        """Yield this message and all messages and enums that it uses, each once, in the order of the fields."""
        seen: set[int] = set()
        waiting: list[MessageSchema | EnumSchema] = [self]
        while waiting:
            each = waiting.pop(0)
            if id(each) not in seen:
                seen.add(id(each))
                yield each
                if isinstance(each, MessageSchema):
                    waiting += [part.type for part in each.fields if not isinstance(part.type, Scalar)]


@dataclass(eq=False)
class EnumSchema:
    """An enum. ``members`` maps upper-case names to JSON values."""

    source: str
    preferred_name: str
    members: dict[str, Any]
    comment: str = ""
    name: str = ""


@dataclass(frozen=True)
class _Unwrapped:
    """A schema without its wrappers, and the properties that the wrappers had."""

    schema: Any
    config: Any
    nullable: bool = False
    #: The default of an absent member: required (no default), null, empty (an empty container) or other.
    default: Literal["required", "null", "empty", "other"] = "required"

    @property
    def kind(self) -> str:
        return str(self.schema["type"])

    @property
    def is_container(self) -> bool:
        if self.kind == "tuple":
            return len(self.schema["items_schema"]) == 1 and self.schema.get("variadic_item_index") == 0
        return self.kind in _LIST_KINDS or self.kind == "dict"


@dataclass(frozen=True)
class _Place:
    """A place inside a type, for error messages and for the names of wrapper messages."""

    path: str
    source: str
    preferred_name: str
    depth: int = 0

    def at(self, path: str, source: str, preferred_name: str) -> _Place:
        return _Place(self.path + path, self.source + source, self.preferred_name + preferred_name, self.depth + 1)


class SchemaBuilder:
    """Builds messages from types. A class becomes one message, even if several types use it.

    ``problems`` has a (path, description) pair for each place that has no message type.
    """

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self._definitions: dict[str, Any] = {}
        #: The parts by pydantic's reference, which is unique, while two classes may have the same name.
        self._made: dict[Any, MessageSchema | EnumSchema] = {}

    def message_for(
        self, value_type: JsonType[Any] | None, source: str, preferred_name: str, comment: str
    ) -> MessageSchema:
        """Return the message of an input, an output or a signal. A type of None means that there is no value."""
        if value_type is None:
            return MessageSchema(source, preferred_name, "null", comment=comment)
        unwrapped = self._unwrap(adapter_of(value_type.member, value_type.name).core_schema, {})
        if unwrapped.kind == "none":
            return MessageSchema(source, preferred_name, "null", comment=comment)
        place = _Place(value_type.name, source, preferred_name)
        if unwrapped.kind in _RECORD_KINDS and not unwrapped.nullable and not _has_serializer(unwrapped.schema):
            cls = unwrapped.schema.get("cls")
            place = replace(place, path=getattr(cls, "__name__", place.path))
            if camel(place.path) == preferred_name:
                return self._record(unwrapped, place)
            comment = "\n\n".join(filter(None, (comment, documentation(cls))))
            message = MessageSchema(source, preferred_name, "record", comment=comment)
            self._fill(message, unwrapped, place)
            return message
        message = MessageSchema(source, preferred_name, "value", comment=comment)
        message.fields.append(self._field("value", "", unwrapped, place))
        return message

    # One field.

    def _field(self, name: str, member: str, unwrapped: _Unwrapped, place: _Place) -> FieldSchema:
        if place.depth > _DEEPEST:
            self._add_problem(place, "contains itself without a class; define a class for it")
            return FieldSchema(name, member, "", BOOL)
        has_three_states = unwrapped.nullable and unwrapped.default == "other"
        if has_three_states or (unwrapped.is_container and (unwrapped.nullable or unwrapped.default == "other")):
            # Presence alone cannot express these, so a wrapper message adds a second level of presence.
            inner = replace(unwrapped, default="required", nullable=has_three_states)
            wrapper = self._wrapper(inner, place.at("", "", "Value"))
            return FieldSchema(name, member, "", wrapper, nullable=unwrapped.nullable and unwrapped.default != "other")
        if unwrapped.kind == "dict":
            return self._map(name, member, unwrapped, place)
        if unwrapped.is_container:
            items = unwrapped.schema.get("items_schema", {"type": "any"})
            item = items[0] if isinstance(items, list) else items
            element = self._element(item, unwrapped.config, place.at("[]", "[]", "Item"))
            return FieldSchema(name, member, "repeated", element)
        single = self._single(unwrapped, place)
        return FieldSchema(name, member, "", single, nullable=unwrapped.nullable, comment=_hint(unwrapped))

    def _map(self, name: str, member: str, unwrapped: _Unwrapped, place: _Place) -> FieldSchema:
        schema = unwrapped.schema
        values = schema.get("values_schema", {"type": "any"})
        key = self._unwrap(schema.get("keys_schema", {"type": "any"}), unwrapped.config)
        element = self._element(values, unwrapped.config, place.at("[]", "[]", "Value"))
        return FieldSchema(name, member, "map", element, key=self._key(key, place.at("[key]", "", "")))

    def _key(self, unwrapped: _Unwrapped, place: _Place) -> str:
        if unwrapped.kind == "enum":
            kind = None if all(isinstance(each.value, str) for each in unwrapped.schema["members"]) else BOOL
        else:
            kind = BOOL if unwrapped.nullable else scalar_of(unwrapped.schema, unwrapped.config) or BOOL
        if kind in (BOOL, DOUBLE):
            self._add_problem(place, "a map's key must be a string or an int")
        return "int64" if kind is INT64 else "string"

    def _element(self, schema: Any, config: Any, place: _Place) -> Scalar | MessageSchema | EnumSchema:
        unwrapped = self._unwrap(schema, config)
        if unwrapped.nullable or unwrapped.is_container:
            return self._wrapper(replace(unwrapped, default="required"), place)
        return self._single(unwrapped, place)

    def _wrapper(self, unwrapped: _Unwrapped, place: _Place) -> MessageSchema:
        comment = "A value, or null if no field is set." if unwrapped.nullable else "A list or a map that has presence."
        message = MessageSchema(place.source, place.preferred_name, "value", comment=comment)
        name = "value" if unwrapped.nullable or not unwrapped.is_container else "values"
        message.fields.append(self._field(name, "", unwrapped, place.at("", "", "")))
        return message

    def _single(self, unwrapped: _Unwrapped, place: _Place) -> Scalar | MessageSchema | EnumSchema:
        if unwrapped.kind == "enum":
            return self._enum(unwrapped.schema, place)
        if unwrapped.kind in _RECORD_KINDS and not _has_serializer(unwrapped.schema):
            return self._record(unwrapped, place)
        scalar = scalar_of(unwrapped.schema, unwrapped.config)
        if scalar is not None:
            return scalar
        if _has_serializer(unwrapped.schema):
            self._add_problem(place, "a custom serializer must write a scalar that the type also accepts as input")
        else:
            self._add_problem(place, _REFUSALS.get(unwrapped.kind, f"pydantic's {unwrapped.kind} has no message type"))
        return BOOL

    # Classes.

    def _enum(self, schema: Any, place: _Place) -> EnumSchema:
        cls = schema["cls"]
        made = self._made.get(cls)
        if isinstance(made, EnumSchema):
            return made
        source = f"{cls.__module__}.{cls.__qualname__}"
        made_enum = self._made[cls] = EnumSchema(source, camel(cls.__name__), {}, documentation(cls))
        if issubclass(cls, enum.Flag):
            self._add_problem(place, "flags have no message type; use a list of an enum")
        values = set()
        for member in schema["members"]:
            name = member.name.upper()
            value = _json_scalar(member.value)
            if value is None:
                self._add_problem(place, f"the value of {cls.__name__}.{member.name} must be a string, int or float")
            elif not re.fullmatch(r"[A-Z0-9_]+", name) or name == "UNSPECIFIED" or name in made_enum.members:
                self._add_problem(
                    place, f"{cls.__name__}.{member.name} must be unique in upper case, ASCII, and not UNSPECIFIED"
                )
            elif (type(value), value) in values:
                self._add_problem(place, f"{cls.__name__} must not have two members with the value {value!r}")
            else:
                values.add((type(value), value))
                made_enum.members[name] = value
        return made_enum

    def _record(self, unwrapped: _Unwrapped, place: _Place) -> MessageSchema:
        schema = unwrapped.schema
        cls = schema.get("cls")
        key = schema.get("ref", cls)
        made = self._made.get(key)
        if isinstance(made, MessageSchema):
            return made
        # The reference includes type arguments. Remove the addresses, which change in each process.
        source = re.sub(r":\d+", "", schema.get("ref", "")) or f"{cls.__module__}.{cls.__qualname__}"
        preferred_name = camel(getattr(cls, "__name__", "Record"))
        message = self._made[key] = MessageSchema(source, preferred_name, "record", comment=documentation(cls))
        self._fill(message, unwrapped, replace(place, source=source, preferred_name=preferred_name))
        return message

    def _fill(self, message: MessageSchema, unwrapped: _Unwrapped, place: _Place) -> None:
        fields, config = _fields_of(unwrapped)
        if config.get("extra_fields_behavior") == "allow" or unwrapped.schema.get("extra_behavior") == "allow":
            self._add_problem(place, "accepts members with any name, which a message cannot; forbid extra members")
        comments = field_comments(unwrapped.schema.get("cls"))
        for name, schema in fields:
            here = place.at(f".{name}", f".{name}", camel(name))
            computed = "return_schema" in schema
            part = self._unwrap(schema["return_schema"] if computed else schema["schema"], config)
            if schema.get("required") is False:
                part = replace(part, default="other")
            made = self._field(snake(name), _member(name, schema, config, here, self.problems), part, here)
            made.output_only = computed or schema.get("init") is False
            made.comment = "\n".join(filter(None, (comments.get(name, ""), made.comment)))
            self._check_name(message, made, here)
            message.fields.append(made)

    def _check_name(self, message: MessageSchema, made: FieldSchema, place: _Place) -> None:
        if not _is_identifier(made.name):
            self._add_problem(place, "its name must consist of ASCII letters, digits and _ to be a field's name")
        for other in message.fields:
            # protoc compares the fields' JSON names.
            if camel(other.name).lower() == camel(made.name).lower():
                self._add_problem(place, f"has the same field name as {other.member}: {made.name}; rename one of them")

    # Wrappers.

    def _unwrap(self, schema: Any, config: Any) -> _Unwrapped:
        unwrapped = _Unwrapped(schema, config)
        for _ in range(_DEEPEST):
            inner = self._unwrap_once(unwrapped)
            if inner is None:
                break
            unwrapped = inner
        return unwrapped

    def _unwrap_once(self, unwrapped: _Unwrapped) -> _Unwrapped | None:
        """Return the schema inside the outermost wrapper, or None if there is no wrapper."""
        schema, kind = unwrapped.schema, unwrapped.kind
        if kind == "definitions":
            self._definitions.update({each["ref"]: each for each in schema["definitions"]})
        elif kind == "definition-ref":
            return replace(unwrapped, schema=self._definitions[schema["schema_ref"]])
        elif kind == "default":
            unwrapped = replace(unwrapped, default=_default(schema))
        elif _has_serializer(schema):
            return None
        elif kind == "nullable":
            unwrapped = replace(unwrapped, nullable=True)
        elif kind == "model" and schema.get("root_model"):
            unwrapped = replace(unwrapped, config=schema.get("config", {}))
        elif kind not in _WRAPPINGS:
            return None
        return replace(unwrapped, schema=schema[_WRAPPINGS.get(kind, "schema")])

    def _add_problem(self, place: _Place, problem: str) -> None:
        self.problems.append((place.path, problem))


def _fields_of(unwrapped: _Unwrapped) -> tuple[list[tuple[str, Any]], Any]:
    """Return a class's fields as (Python name, schema) pairs, and its config."""
    schema = unwrapped.schema
    config = schema.get("config") or unwrapped.config
    inner = schema
    # Validators of the whole class wrap its fields.
    while "schema" in inner and inner["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
        inner = inner["schema"]
    if inner["type"] not in ("model-fields", "dataclass-args", "typed-dict"):
        raise DefinitionError(f"pydantic's schema of {schema.get('cls')} does not list its fields; use a dataclass")
    fields = inner["fields"]
    named = [(each["name"], each) for each in fields] if isinstance(fields, list) else list(fields.items())
    return named + [(each["property_name"], each) for each in inner.get("computed_fields", ())], config


def _member(name: str, schema: Any, config: Any, place: _Place, problems: list[tuple[str, str]]) -> str:
    """Return a field's name in JSON. Add a problem if it is written and read under different names."""
    if "return_schema" in schema:
        return str(schema.get("alias", name))
    written = str(schema.get("serialization_alias", name))
    if written not in names_read(name, schema, config):
        problems.append((place.path, f"is written as {written!r} but not read by that name; use one alias for both"))
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


def _hint(unwrapped: _Unwrapped) -> str:
    """Return a comment for a property that the field's type does not express, or ""."""
    if unwrapped.kind == "literal":
        values = [json.dumps(to_jsonable_python(each), ensure_ascii=False) for each in unwrapped.schema["expected"]]
        return f"One of {', '.join(values)}."
    return _HINTS.get(unwrapped.kind, "")


def _json_scalar(value: Any) -> Any:
    try:
        scalar = to_jsonable_python(value)
    except PydanticSerializationError:
        return None
    return scalar if type(scalar) in (str, int, float) else None


def camel(name: str) -> str:
    """Return a name in the style of protobuf's messages, such as SendCampaign."""
    parts = re.split(r"[^A-Za-z0-9]+", name)
    joined = "".join(part[:1].upper() + part[1:] for part in parts if part)
    return joined if joined[:1].isalpha() else f"T{joined}"


def snake(name: str) -> str:
    """Return a name in the style of protobuf's fields, such as order_id."""
    if name.islower():
        return name.lstrip("_")
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name))
    return split.lower().lstrip("_")
