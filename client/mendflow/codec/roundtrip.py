"""Checks that a value is the same after a round trip through JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from mendflow.codec.problems import Problem, path_of, type_name

Places = tuple[int | str, ...]

#: The schemas for which pydantic chooses a type by the value, so that it may choose another type when it decodes.
GUESSED = frozenset({"any", "union", "is-instance"})
_ITEMS = {
    "list": ("items_schema",),
    "set": ("items_schema",),
    "frozenset": ("items_schema",),
    "dict": ("keys_schema", "values_schema"),
}


def kinds_in(schema: Any) -> set[str]:
    """Return the kinds of all parts of a pydantic core schema."""
    kinds: set[str] = set()
    seen: set[int] = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            kind = node.get("type")
            if isinstance(kind, str):
                kinds.add(kind)
                if any(part not in node for part in _ITEMS.get(kind, ())):
                    kinds.add("any")
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(node)
    return kinds


def difference(value: Any, back: Any, places: Places = ()) -> Problem | None:
    """Return the first place where ``back`` differs from ``value``, or None if they are the same.

    A list equals a tuple with the same items, and a dict equals any mapping.
    """
    parts = _parts(value, back)
    if isinstance(parts, str):
        return path_of(places), parts
    problems = (difference(a, b, (*places, place)) for place, a, b in parts)
    return next(filter(None, problems), None)


def _parts(value: Any, back: Any) -> str | list[tuple[int | str, Any, Any]]:  # noqa: PLR0911 - one for each kind of value
    """Return the pairs of parts to compare, or the problem with the whole value."""
    if isinstance(value, list | tuple) and isinstance(back, list | tuple):
        if len(value) != len(back) or (hasattr(value, "_fields") and type(value) is not type(back)):
            return f"would be decoded as another {type_name(type(back))}; annotate it with its type"
        return [(i, a, b) for i, (a, b) in enumerate(zip(value, back, strict=True))]
    if isinstance(value, Mapping) and isinstance(back, Mapping):
        keys = {(type(key), key) for key in back}
        lost = [key for key in value if (type(key), key) not in keys]
        if lost or len(value) != len(back):
            return f"the key {lost[:1]!r:.100} would be lost, because JSON's keys are strings; annotate the keys' type"
        return [(str(key), value[key], back[key]) for key in value]
    if type(value) is not type(back):
        names = type_name(type(value)), type_name(type(back))
        return f"is of type {names[0]} and would be decoded as {names[1]}; annotate it with its type"
    if dataclasses.is_dataclass(value):
        names_ = [field.name for field in dataclasses.fields(value) if field.compare]
        return [(name, getattr(value, name), getattr(back, name)) for name in names_]
    if isinstance(value, BaseModel):
        return [(name, part, back.__dict__.get(name)) for name, part in value.__dict__.items()]
    return [] if value == back else f"would be decoded as {back!r:.100}"


def not_finite(plain: Any, places: Places = ()) -> Problem | None:
    """Return the first number in plain data that is not finite, or None."""
    if isinstance(plain, float):
        return None if math.isfinite(plain) else (path_of(places), f"{plain} is not a JSON number")
    if isinstance(plain, Decimal):
        return None if plain.is_finite() else (path_of(places), f"{plain} is not a JSON number")
    parts: Any = ()
    if isinstance(plain, dict):
        parts = plain.items()
    elif isinstance(plain, list | tuple | set | frozenset):
        parts = enumerate(plain)
    for place, part in parts:
        problem = not_finite(part, (*places, place if isinstance(place, int) else str(place)))
        if problem is not None:
            return problem
    return None


def ordered(plain: Any, shown: Any) -> Any:
    """Return ``shown``, a value's JSON form, with sorted sets. ``plain``, its Python form, says which lists are sets.

    Raise ValueError for a set inside a set, because the two forms order it differently.
    """
    if isinstance(plain, set | frozenset) and isinstance(shown, list):
        if any(_has_set(item) for item in plain):
            raise ValueError("a set inside a set has no fixed order; use a list or a tuple inside the set")
        kinds = {type(item) for item in shown}
        return sorted(shown) if kinds <= {str} or kinds <= {int} or kinds <= {float} else sorted(shown, key=_text)
    if isinstance(plain, dict) and isinstance(shown, dict) and len(plain) == len(shown):
        parts = zip(plain.values(), shown.items(), strict=True)
        return {name: ordered(part, member) for part, (name, member) in parts}
    if isinstance(plain, list | tuple) and isinstance(shown, list) and len(plain) == len(shown):
        return [ordered(part, item) for part, item in zip(plain, shown, strict=True)]
    return shown


def _has_set(plain: Any) -> bool:
    return isinstance(plain, set | frozenset) or (isinstance(plain, tuple) and any(_has_set(item) for item in plain))


def _text(shown: Any) -> str:
    return json.dumps(shown, sort_keys=True)
