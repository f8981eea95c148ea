"""Whether an annotation names the type of a part itself, so another type must not stand in for it.

``Sequence[int]`` leaves open whether a value is a list or a tuple. ``Sequence[int] | tuple[int, ...]`` does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["names_own_type"]

Places = tuple[int | str, ...]

#: The kinds of a pydantic core schema for the types that others stand in for.
_KINDS: Final[dict[type, str]] = {tuple: "tuple", set: "set"}
#: Where a part of a schema has the schemas of the same value.
_SAME: Final = ("schema", "lax_schema", "json_schema")
_FIELDS: Final = frozenset({"model-fields", "dataclass-args", "typed-dict", "named-tuple"})


def names_own_type(schema: Any, value: Any, places: Places) -> bool:
    """Return whether a pydantic core schema has the type of the part of ``value`` at ``places``, at that place."""
    definitions: dict[str, Any] = {}
    nodes = list(_choices(schema, value, definitions))
    for place in places:
        part = _part(value, place)
        inner = [each for node in nodes for each in _parts(node, place)]
        nodes = [choice for each in inner for choice in _choices(each, part, definitions)]
        value = part
    kind = _KINDS.get(type(value))
    return any(node["type"] == kind for node in nodes)


def _choices(schema: Any, value: Any, definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a schema by which a value may be read, without those for other classes."""
    waiting, seen = [schema], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        kind = node["type"]
        if kind == "definitions":
            definitions.update((each["ref"], each) for each in node["definitions"])
        if kind == "definition-ref":
            if node["schema_ref"] in definitions:
                waiting.append(definitions[node["schema_ref"]])
            continue
        if kind in ("model", "dataclass", "named-tuple") and type(value) is not node["cls"]:
            continue
        yield node
        if not node.get("root_model"):
            waiting.extend(node[name] for name in _SAME if isinstance(node.get(name), dict))
        choices = node.get("choices", ())
        choices = choices.values() if isinstance(choices, dict) else choices
        waiting.extend(choice[0] if isinstance(choice, tuple) else choice for choice in choices)
        waiting.extend(node.get("steps", ()))


def _parts(node: dict[str, Any], place: int | str) -> list[Any]:
    """Return the schemas of the part of a value at a place."""
    kind = node["type"]
    found: list[Any] = []
    if kind in _FIELDS:
        fields = node["fields"]
        if not isinstance(fields, dict):
            fields = {index if kind == "named-tuple" else each["name"]: each for index, each in enumerate(fields)}
        found = [fields[place]["schema"]] if place in fields else []
    elif kind == "tuple" and isinstance(place, int):
        first = node.get("variadic_item_index", len(node["items_schema"]))
        found = node["items_schema"][first:] if place >= first else [node["items_schema"][place]]
    elif kind == "list" and isinstance(place, int):
        found = [node.get("items_schema")]
    elif kind == "dict":
        found = [node.get("values_schema")]
    elif node.get("root_model") and place == "root":
        found = [node["schema"]]
    return [each for each in found if each is not None]


def _part(value: Any, place: int | str) -> Any:
    if isinstance(value, Mapping):
        return next((part for key, part in value.items() if key == place or str(key) == place), None)
    return value[place] if isinstance(place, int) else getattr(value, place, None)
