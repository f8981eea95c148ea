"""What JSON does not have: numbers that are not finite, and sets, which have no order."""

from __future__ import annotations

import cmath
import json
import math
import re
from decimal import Decimal
from typing import Any

from mendflow.codec.problems import Problem, path_of

Places = tuple[int | str, ...]

#: The schemas that may read an infinite number from JSON, such as 1e999.
FLOATS = frozenset(
    {
        "float",
        "decimal",
        "any",
        "complex",
        "call",
        "function-plain",
        "function-before",
        "function-wrap",
        "function-after",
    }
)
#: An exponent of one digit makes an infinity only of 300 digits. A text may have underscores, and letters as escapes.
_OVERFLOW = re.compile(r"[eE]\+?_?[0-9]_?[0-9]|[0-9_]{200}|[iI][nN][fF]|[nN][aA][nN]|\\u00")  # IGNORECASE is slower.
#: The settings that let a class have members without a type.
_EXTRAS = ("extra_behavior", "extra_fields_behavior")
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
            if any(node.get(setting) == "allow" for setting in _EXTRAS):
                kinds.add("any")
            waiting.extend(node.values())
        elif isinstance(node, list | tuple):
            waiting.extend(node)
    return kinds


def may_overflow(text: str) -> bool:
    """Return whether JSON may have an infinity or NaN: a large exponent, very many digits, or a text with its name."""
    return _OVERFLOW.search(text) is not None


def not_finite(plain: Any, places: Places = ()) -> Problem | None:
    """Return the first number in plain data that is not finite, or None."""
    if isinstance(plain, float):
        return None if math.isfinite(plain) else (path_of(places), f"{plain} is not a JSON number")
    if isinstance(plain, complex):
        return None if cmath.isfinite(plain) else (path_of(places), f"{plain} is not a JSON number")
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
