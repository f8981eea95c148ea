"""Types whose values can never come back from JSON. They are refused when they are defined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
_NO_KEYS = frozenset({"none", "tuple", "list", "set", "frozenset", "dict", "typed-dict", "dataclass"})
_CLASSES = frozenset({"model", "dataclass", "typed-dict"})
_FIELDS = frozenset({"model-fields", "dataclass-args", "typed-dict"})
#: Functions that may change a value before its members are read.
_CHANGING = frozenset({"function-before", "function-wrap", "function-plain"})
#: Parts of a schema that hold values, not types.
_VALUES = frozenset({"default", "metadata", "serialization", "expected", "members", "config", "computed_fields"})


def unrecordable(schema: Any) -> Problem | None:
    """Return the first part of a pydantic core schema that can never come back, with the reason and what to do."""
    return next(_problems(schema, (), {}, set()), None)


def _problems(node: Any, places: Places, config: dict[str, Any], seen: set[int]) -> Iterator[Problem]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, list | tuple):
        for part in node:
            yield from _problems(part, places, config, seen)
    elif isinstance(node, dict) and not _is_users(node):
        kind = node.get("type")
        if kind in _CLASSES and "cls" in node:
            places, config = (type_name(node["cls"]),), node.get("config") or {}
        if kind in _FIELDS:
            yield from _field_problems(node, places, config)
        reason = _reason(node)
        if reason:
            yield path_of(places), reason
        for name, part in node.items():
            if name not in _VALUES:
                inside = (*places, node["name"]) if kind == "dataclass-field" and name == "schema" else places
                yield from _problems(part, inside, config, seen)


def _reason(node: dict[str, Any]) -> str | None:
    kind = node.get("type")
    serializer = (node.get("serialization") or {}).get("function")
    if getattr(serializer, "__name__", "").startswith("_serialize_secret"):
        return "a secret is written as asterisks; keep it out of histories, and record its name"
    if kind == "dict" and node.get("keys_schema", {}).get("type") in _NO_KEYS:
        return f"JSON's keys are strings, and a {node['keys_schema']['type']} is none; use strings or ints"
    return _KINDS.get(kind) if isinstance(kind, str) and "serialization" not in node else None


def _is_users(node: dict[str, Any]) -> bool:
    """Return whether a function of the user decides how a part is read or written. Then only its values can show."""
    functions = [(node.get("serialization") or {}).get("function")]
    if node.get("type") in _CHANGING:
        functions.append(node["function"]["function"])
    return any(each is not None and not _module(each).startswith("pydantic.") for each in functions)


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
