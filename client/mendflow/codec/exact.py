"""Which types are faithful, and which of their values come back from JSON exactly as they were.

`exact_test` reads a pydantic core schema once, when a type is defined. It knows a small part of pydantic: builtins,
dataclasses, models and typed dicts without validators and serializers of their own. A value of such a type that has
exactly the annotated classes at every place needs no comparison with what a reader gets. All other types and values do.
"""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import TzInfo

from mendflow.codec.layout import MODEL_SLOTS, shows_fields
from mendflow.codec.plain import LARGEST_INT, LEAST_INT, holds_plain, is_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["ExactTest", "exact_test"]

#: How deep the parts of a type may be nested. An untyped part adds 100 levels, and pydantic reads 200.
_DEEPEST = 50
#: What pydantic and a type's documentation add to a schema, without an effect on values.
_HARMLESS = frozenset({"type", "ref", "metadata"})
_BOUNDS = frozenset({"ge", "gt", "le", "lt", "multiple_of"})
_LENGTHS = frozenset({"min_length", "max_length"})
#: The settings of a class that change no value.
_HARMLESS_CONFIG = frozenset(
    {
        "title",
        "extra_fields_behavior",
        "frozen",
        "from_attributes",
        "serialize_by_alias",
        "validate_by_alias",
        "validate_by_name",
    }
)


class ExactTest(NamedTuple):
    """A test which proves that a value comes back exactly."""

    passes: Callable[[Any], bool]
    #: Whether the type has constraints, so that an exact value may still be refused when it is read.
    constrained: bool


class _Part(NamedTuple):
    """The tests of one part of a type: of one value, and of all values of a container at once, which is faster."""

    one: Callable[[Any], bool]
    many: Callable[[Collection[Any]], bool]


def exact_test(schema: Any) -> ExactTest | None:
    """Return the test for a pydantic core schema, or None if the type is not known to be faithful."""
    reader = _Reader()
    try:
        part = reader.part(schema, 0)
    except _Unknown:
        return None
    return ExactTest(part.one, reader.constrained)


class _Unknown(Exception):
    """Raised at a part of a schema that is not known to be faithful."""


@dataclass
class _Reader:
    """Reads one schema."""

    constrained: bool = False
    _definitions: dict[str, Any] = field(default_factory=dict)
    #: The references in progress. A type that contains itself has no bounded depth.
    _open: set[str] = field(default_factory=set)

    def part(self, node: Any, depth: int) -> _Part:
        """Return the tests for one part. Raise `_Unknown`."""
        read = _READERS.get(node["type"])
        if read is None or depth > _DEEPEST:
            raise _Unknown
        return read(self, node, depth + 1)

    def check_keys(self, node: Any, *known: str, constraints: frozenset[str] = frozenset()) -> None:
        """Raise `_Unknown` if a part has a setting that is not known."""
        others = node.keys() - _HARMLESS
        if not others <= constraints.union(known):
            raise _Unknown
        if others & constraints:
            self.constrained = True

    def definitions(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "schema", "definitions")
        self._definitions.update((each["ref"], each) for each in node["definitions"])
        return self.part(node["schema"], depth)

    def reference(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "schema_ref")
        name = node["schema_ref"]
        if name in self._open or name not in self._definitions:
            raise _Unknown
        self._open.add(name)
        part = self.part(self._definitions[name], depth)
        self._open.discard(name)
        return part

    def default(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "schema", "default", "default_factory", "default_factory_takes_data", "copy_default")
        return self.part(node["schema"], depth)

    def nullable(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "schema")
        one, many = self.part(node["schema"], depth)
        return _Part(
            lambda value: value is None or one(value), lambda values: many([v for v in values if v is not None])
        )

    def integer(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node, constraints=_BOUNDS)
        return _INT

    def number(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node, constraints=_BOUNDS | {"allow_inf_nan"})
        return _FLOAT

    def string(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node, constraints=_LENGTHS | {"pattern"})
        return _STR

    def moment(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node, "microseconds_precision")
        return _TIMES[node["type"]]

    def simple(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node)
        return _SIMPLE[node["type"]]

    def literal(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node, "expected")
        expected = node["expected"]
        if any(type(each) is not str for each in expected):
            raise _Unknown
        return _each(lambda value: type(value) is str and value in expected)

    def enumeration(self, node: Any, depth: int) -> _Part:
        del depth
        self.check_keys(node, "cls", "members", "sub_type", "missing")
        cls = node["cls"]
        values = [each.value for each in node["members"]]
        if issubclass(cls, enum.Flag) or not all(type(each) is str or _is_int(each) for each in values):
            raise _Unknown
        if len(set(values)) != len(values):  # An enum may have a property instead of its members' values.
            raise _Unknown
        return _of_class(cls)

    def items(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "items_schema", "strict", constraints=_LENGTHS)
        kind = {"list": list, "set": set, "frozenset": frozenset}[node["type"]]
        _one, many = self.part(node.get("items_schema", _ANY), depth)
        return _each(lambda value: type(value) is kind and many(value))

    def fixed(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "items_schema", "variadic_item_index")
        tests = [self.part(item, depth) for item in node["items_schema"]]
        if "variadic_item_index" not in node:
            size = len(tests)
            ones = [test.one for test in tests]
            return _each(
                lambda value: (
                    type(value) is tuple
                    and len(value) == size
                    and all(one(item) for one, item in zip(ones, value, strict=True))
                )
            )
        if len(tests) != 1:
            raise _Unknown
        many = tests[0].many
        return _each(lambda value: type(value) is tuple and many(value))

    def mapping(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "keys_schema", "values_schema", "strict", constraints=_LENGTHS)
        keys = self.part(node.get("keys_schema", _ANY), depth)
        if keys is _STR or keys is _PLAIN:
            have_keys: Callable[[Any], bool] = _STR.many
        elif keys is _INT:
            have_keys = keys.many
        else:
            raise _Unknown
        many = self.part(node.get("values_schema", _ANY), depth).many
        return _each(lambda value: type(value) is dict and have_keys(value) and many(value.values()))

    def typed_dict(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "cls", "fields", "computed_fields", "config", "extra_behavior", "total")
        self._check_class(node, node)
        fields = node["fields"]
        tests = {name: self._field(name, each, depth) for name, each in fields.items()}
        required = {name for name, each in fields.items() if each.get("required", True)}

        def one(value: Any) -> bool:
            if type(value) is not dict or not required <= value.keys():
                return False
            return all(name in tests and tests[name](part) for name, part in value.items())

        return _each(one)

    def model(self, node: Any, depth: int) -> _Part:
        self.check_keys(node, "cls", "config", "schema", "custom_init", "root_model", "frozen", "generic_origin")
        fields = node["schema"]
        if node.get("custom_init") or node.get("root_model") or fields["type"] != "model-fields":
            raise _Unknown
        self.check_keys(fields, "fields", "computed_fields", "model_name")
        self._check_class(node, fields)
        tests = [(name, self._field(name, each, depth)) for name, each in fields["fields"].items()]
        cls, size = node["cls"], len(tests)
        if not shows_fields(cls, fields["fields"], MODEL_SLOTS):
            raise _Unknown

        def one(value: Any) -> bool:
            if type(value) is not cls or value.__pydantic_extra__ is not None:
                return False
            return _has_parts(value.__dict__, tests, size)

        return _each(one)

    def dataclass(self, node: Any, depth: int) -> _Part:
        self.check_keys(
            node, "cls", "config", "schema", "fields", "slots", "post_init", "frozen", "cls_name", "generic_origin"
        )
        arguments = node["schema"]
        if node.get("post_init") or arguments["type"] != "dataclass-args":
            raise _Unknown
        self.check_keys(arguments, "fields", "computed_fields", "dataclass_name", "collect_init_only")
        self._check_class(node, arguments)
        tests = [(each["name"], self._field(each["name"], each, depth)) for each in arguments["fields"]]
        cls, size = node["cls"], len(tests)
        if not shows_fields(cls, [name for name, _ in tests]) or hasattr(cls, "__getattr__"):
            raise _Unknown
        if not cls.__dictoffset__:
            return _each(
                lambda value: type(value) is cls and all(test(getattr(value, name, ...)) for name, test in tests)
            )
        if node.get("slots"):
            raise _Unknown  # Only some of its fields are in its __dict__.
        return _each(lambda value: type(value) is cls and _has_parts(value.__dict__, tests, size))

    def _check_class(self, node: Any, fields: Any) -> None:
        """Raise `_Unknown` if a class changes its values or its members' names, or has more than its fields."""
        config = node.get("config") or {}
        extra = (config.get("extra_fields_behavior"), node.get("extra_behavior"))
        if not config.keys() <= _HARMLESS_CONFIG or not config.get("validate_by_alias", True):
            raise _Unknown
        if "allow" in extra or fields.get("computed_fields"):
            raise _Unknown

    def _field(self, name: str, node: Any, depth: int) -> Callable[[Any], bool]:
        self.check_keys(
            node, "name", "schema", "init", "kw_only", "frozen", "required", "validation_alias", "serialization_alias"
        )
        aliases = node.get("validation_alias", name), node.get("serialization_alias", name)
        if node.get("init") is False or aliases[0] != aliases[1]:
            raise _Unknown
        return self.part(node["schema"], depth).one


def _has_parts(parts: dict[str, Any], tests: list[tuple[str, Callable[[Any], bool]]], size: int) -> bool:
    if len(parts) != size:
        return False
    for name, test in tests:  # noqa: SIM110 - all() takes half as long again
        if not test(parts.get(name, ...)):
            return False
    return True


def _each(one: Callable[[Any], bool]) -> _Part:
    return _Part(one, lambda values: all(map(one, values)))


def _of_class(cls: type) -> _Part:
    only = {cls}
    return _Part(lambda value: type(value) is cls, lambda values: only.issuperset(map(type, values)))


def _is_int(value: Any) -> bool:
    return type(value) is int and LEAST_INT <= value <= LARGEST_INT


def _are_ints(values: Collection[Any]) -> bool:
    return not values or (
        {int}.issuperset(map(type, values)) and min(values) >= LEAST_INT and max(values) <= LARGEST_INT
    )


def _is_float(value: Any) -> bool:
    return type(value) is float and value - value == 0.0


def _are_floats(values: Collection[Any]) -> bool:
    if not {float}.issuperset(map(type, values)):
        return False
    total = sum(values)
    return bool(total - total == 0.0)  # The sum is not finite if a number is not, or rarely if it is too large.


def _is_finite_decimal(value: Any) -> bool:
    return type(value) is Decimal and value.is_finite()


def _is_utc_or_naive(value: Any) -> bool:
    if type(value) is not datetime or value.fold:
        return False
    zone = value.tzinfo
    return zone is None or zone is UTC or (type(zone) is TzInfo and not zone.utcoffset(None))


def _is_naive_time(value: Any) -> bool:
    return type(value) is time and value.tzinfo is None and not value.fold


_ANY = {"type": "any"}
_INT = _Part(_is_int, _are_ints)
_FLOAT = _Part(_is_float, _are_floats)
_STR = _of_class(str)
_PLAIN = _Part(is_plain, holds_plain)
_SIMPLE: dict[str, _Part] = {
    "any": _PLAIN,
    "none": _of_class(type(None)),
    "bool": _of_class(bool),
    "uuid": _of_class(uuid.UUID),
    "date": _of_class(date),
    "decimal": _each(_is_finite_decimal),
}
_TIMES: dict[str, _Part] = {
    "datetime": _each(_is_utc_or_naive),
    "time": _each(_is_naive_time),
    "timedelta": _of_class(timedelta),
}
_READERS: dict[str, Callable[[_Reader, Any, int], _Part]] = {
    **dict.fromkeys(_SIMPLE, _Reader.simple),
    **dict.fromkeys(_TIMES, _Reader.moment),
    **dict.fromkeys(("list", "set", "frozenset"), _Reader.items),
    "int": _Reader.integer,
    "float": _Reader.number,
    "str": _Reader.string,
    "literal": _Reader.literal,
    "enum": _Reader.enumeration,
    "tuple": _Reader.fixed,
    "dict": _Reader.mapping,
    "nullable": _Reader.nullable,
    "default": _Reader.default,
    "definitions": _Reader.definitions,
    "definition-ref": _Reader.reference,
    "typed-dict": _Reader.typed_dict,
    "model": _Reader.model,
    "dataclass": _Reader.dataclass,
}
