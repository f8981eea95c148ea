"""Which values are plain: JSON's own kinds, which come back from JSON as they were.

A plain tree needs neither pydantic's warnings nor a comparison with what a
reader would get: its JSON text is the same with and without them. Only exact
types count. An instance of a subclass (an IntEnum, a str subclass, an
OrderedDict) may be written in a form of its own, and comes back as another type.
"""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LARGEST_INT", "LEAST_INT", "holds_plain", "is_plain", "plain_test"]

#: Where integers end that every reader of JSON and of messages takes.
LEAST_INT, LARGEST_INT = -(1 << 63), (1 << 63) - 1
#: How deep a plain tree may be. It also ends the search in a value that contains itself; pydantic reads 200 levels.
_DEEPEST = 100
#: Annotations that take every plain tree.
_ANYTHING = (Any, object, JsonValue)


def plain_test(annotation: Any) -> Callable[[Any], bool] | None:
    """Return the test that proves a value of this annotation plain; None for a type that has no such test.

    A container whose items have a type of their own has none: the test would be slower than pydantic.
    """
    if annotation in _ANYTHING:
        return is_plain
    origin, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        others = [part for part in parts if part is not types.NoneType]
        return _or_none(plain_test(others[0])) if len(others) == 1 else None
    if origin is list and parts and plain_test(parts[0]) is _is_dict:
        return _is_list_of_dicts
    if origin is dict and parts[:1] == (str,):
        parts = parts[1:]
    takes_all = isinstance(origin, type) and all(part in _ANYTHING for part in parts)
    return _TESTS.get(origin) if takes_all else None


def is_plain(value: Any) -> bool:
    """Return whether a value is a plain tree: dict, list, str, int of 64 bits, finite float, bool and None."""
    kind = type(value)
    return holds_plain(value if kind is dict or kind is list else (value,), _DEEPEST)


def holds_plain(container: Any, deeper: int = _DEEPEST) -> bool:  # noqa: C901 - a function for each part takes twice as long
    """Return whether all parts of a dict, or all items of a collection, are plain trees, at most so much ``deeper``."""
    if type(container) is dict:
        for key in container:
            if type(key) is not str:
                return False
        container = container.values()
    for part in container:
        kind = type(part)
        if kind is str or kind is bool or part is None:
            continue
        if kind is int:
            if not LEAST_INT <= part <= LARGEST_INT:
                return False
        elif kind is float:
            if part - part != 0.0:  # NaN and infinities: their difference is NaN. Half the time of math.isfinite.
                return False
        elif not (kind is dict or kind is list) or not deeper or not holds_plain(part, deeper - 1):
            return False
    return True


def _or_none(test: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
    return test and (lambda value: value is None or test(value))


def _is_int(value: Any) -> bool:
    return type(value) is int and LEAST_INT <= value <= LARGEST_INT


def _is_str(value: Any) -> bool:
    return type(value) is str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_float(value: Any) -> bool:
    return type(value) is float and value - value == 0.0


def _is_dict(value: Any) -> bool:
    return type(value) is dict and holds_plain(value, _DEEPEST)


def _is_list(value: Any) -> bool:
    return type(value) is list and holds_plain(value, _DEEPEST)


def _is_list_of_dicts(value: Any) -> bool:
    return type(value) is list and all(map(_is_dict, value))


_TESTS: dict[Any, Callable[[Any], bool]] = {
    int: _is_int,
    str: _is_str,
    bool: _is_bool,
    float: _is_float,
    dict: _is_dict,
    list: _is_list,
}
