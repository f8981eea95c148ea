"""Types whose values can never come back from JSON. They are refused when they are defined."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from pydantic_core import SchemaValidator, to_json

from mendflow.codec.problems import Problem, path_of, type_name

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["names_read", "unrecordable"]

Places = tuple[str, ...]

#: The kinds of a pydantic core schema that have no value in JSON, with what to do.
_KINDS = {
    "generator": "its items can be read only once; use a list or a Sequence",
    "callable": "JSON cannot express a function; use a name",
    "is-subclass": "JSON cannot express a class; use a name",
    "json": "it is read as a text but written as the value in it; annotate it with the value's own type",
}
_NO_KEYS = frozenset({"none", "tuple", "named-tuple", "list", "set", "frozenset", "dict", "typed-dict", "dataclass"})
#: The kinds whose JSON form is an object, which Python cannot put into a set to sort it.
_OBJECTS = frozenset({"dict", "typed-dict", "dataclass", "model"})
_CLASSES = frozenset({"model", "dataclass", "typed-dict"})
_FIELDS = frozenset({"model-fields", "dataclass-args", "typed-dict"})
#: Functions that may change a value before its members are read.
_CHANGING = frozenset({"function-before", "function-wrap", "function-plain"})
#: Parts of a schema that hold values, not types.
_VALUES = frozenset({"default", "metadata", "serialization", "expected", "members", "config", "computed_fields"})


def unrecordable(schema: Any) -> Problem | None:
    """Return the first part of a pydantic core schema that can never come back, with the reason and what to do."""
    shared = schema["definitions"] if schema["type"] == "definitions" else ()
    refs = {each["ref"]: each for each in shared}
    return next(_problems(schema, (), {}, set(), refs), None)


def _problems(
    node: Any, places: Places, config: dict[str, Any], seen: set[int], refs: dict[str, Any]
) -> Iterator[Problem]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, list | tuple):
        for part in node:
            yield from _problems(part, places, config, seen, refs)
    elif isinstance(node, dict) and not _is_users(node):
        kind = node.get("type")
        if kind in _CLASSES and "cls" in node:
            places, config = (type_name(node["cls"]),), node.get("config") or {}
        if kind in _FIELDS:
            yield from _field_problems(node, places, config)
        reason = _reason(node) or _reason_of_parts(node, refs)
        if reason:
            yield path_of(places), reason
        for inside, part in _inner(node, places):
            yield from _problems(part, inside, config, seen, refs)


def _inner(node: dict[str, Any], places: Places) -> Iterator[tuple[Places, Any]]:
    """Yield the parts of a schema that may hold types, with their places."""
    kind = node.get("type")
    for name, part in node.items():
        if kind in _FIELDS and name == "fields" and isinstance(part, dict):
            yield from (((*places, field), inner) for field, inner in part.items())
        elif name not in _VALUES:
            yield (*places, node["name"]) if kind == "dataclass-field" and name == "schema" else places, part


def _reason(node: dict[str, Any]) -> str | None:
    kind = node.get("type")
    serializer = (node.get("serialization") or {}).get("function")
    if getattr(serializer, "__name__", "").startswith("_serialize_secret"):
        return "a secret is written as asterisks; keep it out of histories, and record its name"
    if kind == "dict" and node.get("keys_schema", {}).get("type") in _NO_KEYS:
        return f"JSON's keys are strings, and a {node['keys_schema']['type']} is none; use strings or ints"
    return _KINDS.get(kind) if isinstance(kind, str) and "serialization" not in node else None


def _reason_of_parts(node: dict[str, Any], refs: dict[str, Any]) -> str | None:
    """Return why the members of an enum or a literal, a dict's keys or a set's elements never come back."""
    kind = node.get("type")
    if kind in ("enum", "literal"):
        for value in _unreadable(node):
            return f"{value!r:.100} is not read from JSON as it is written; {_instead(value)}"
    elif kind == "dict" and "keys_schema" in node:
        for keys in _flat(node["keys_schema"], refs, within=False):
            for value in _unreadable(keys, as_keys=True):
                return f"JSON's keys are strings, and the key {value!r:.100} is not read from one; use strings"
    elif kind in ("set", "frozenset") and "items_schema" in node:
        for item in _flat(node["items_schema"], refs, within=True):
            if item["type"] in _OBJECTS and not item.get("root_model") and "serialization" not in item:
                name = type_name(item["cls"]) if "cls" in item else item["type"]
                return f"a set of {name} has no fixed order in JSON; use a list or a tuple"
    return None


def _flat(schema: Any, refs: dict[str, Any], *, within: bool) -> Iterator[dict[str, Any]]:
    """Yield the schemas of a key, by the members of its union, or ``within`` an element, by its tuples' items."""
    waiting, seen = [schema], set()
    while waiting:
        node = waiting.pop()
        if node["type"] == "definition-ref":
            node = refs.get(node["schema_ref"], node)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if node["type"] in ("nullable", "default"):
            waiting.append(node["schema"])
        elif not within and node["type"] == "union":
            waiting.extend(each[0] if isinstance(each, tuple) else each for each in node["choices"])
        elif within and node["type"] == "tuple":
            waiting.extend(node["items_schema"])
        elif within and node["type"] == "named-tuple":
            waiting.extend(each["schema"] for each in node["fields"])


def _unreadable(node: dict[str, Any], *, as_keys: bool = False) -> Iterator[Any]:
    """Yield the members of an enum or a literal that pydantic does not read from their own JSON."""
    if node["type"] not in ("enum", "literal") or "serialization" in node:
        return
    alone: Any = {name: part for name, part in node.items() if name not in ("ref", "metadata")}
    reader = SchemaValidator({"type": "dict", "keys_schema": alone} if as_keys else alone)
    for value in node["members"] if node["type"] == "enum" else node["expected"]:
        shown = value.value if isinstance(value, enum.Enum) else value
        if not as_keys and (shown is None or (type(shown) in (str, int, float, bool) and shown is value)):
            continue
        if not as_keys and node["type"] == "enum" and isinstance(shown, str | int | float):
            continue  # Whether JSON can hold it depends on the value, such as a lone surrogate.
        try:
            reader.validate_json(to_json({value: None} if as_keys else value))
        except Exception:  # noqa: BLE001 - an enum's _missing_ may raise anything
            yield value


def _instead(value: Any) -> str:
    if isinstance(value, enum.Enum) and isinstance(value.value, str | int | float):
        return f"annotate it with {type_name(type(value))}, or use a StrEnum or an IntEnum"
    return "use strings or ints as values"


def _is_users(node: dict[str, Any]) -> bool:
    """Return whether a function of the user decides how a part is read or written. Then only its values can show."""
    functions = [(node.get("serialization") or {}).get("function")]
    if node.get("type") in _CHANGING:
        functions.append(node["function"]["function"])
    return any(
        each is not None and not _module(each).startswith(("pydantic.", "mendflow.codec.")) for each in functions
    )


def _module(function: Any) -> str:
    return str(getattr(function, "__module__", None))


def _field_problems(node: dict[str, Any], places: Places, config: dict[str, Any]) -> Iterator[Problem]:
    """Yield the problems of a class's fields: what is not written, or is not read under the name that is written."""
    fields = node["fields"]
    named = list(fields.items()) if isinstance(fields, dict) else [(each["name"], each) for each in fields]
    written_by: dict[str, str] = {}
    for name, field in named:
        path = path_of((*places, name))
        if field.get("serialization_exclude"):
            yield path, "it is excluded, so it would be lost; record it, or make it a property"
        elif field.get("init_only"):
            if field["schema"].get("type") != "default":
                yield path, "an InitVar is not written, and this one has no default; make it a field"
        elif field.get("init", True):
            written = field.get("serialization_alias", name)
            read = names_read(name, field, config)
            if written not in read:
                names = " or ".join(map(repr, sorted(read))) or "a name inside another member"
                yield path, f"it is written as {written!r} but read as {names}; use one alias=... for both"
            elif written in written_by:
                yield path, f"it is written as {written!r}, as is {written_by[written]}; use another alias"
            written_by[written] = name


def names_read(name: str, field: dict[str, Any], config: dict[str, Any]) -> set[str]:
    """Return the names under which a field of a class is read."""
    alias = field.get("validation_alias")
    if alias is None:
        return {name}
    names = {name} if config.get("validate_by_name") else set()
    if config.get("validate_by_alias", True):
        paths = [[alias]] if isinstance(alias, str) else alias if isinstance(alias[0], list) else [alias]
        names |= {path[0] for path in paths if len(path) == 1}
    return names
