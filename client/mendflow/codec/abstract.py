"""Abstract annotations: what a value of `Iterable`, `Collection` or `Set` is in a recorded call."""

from __future__ import annotations

import types
import typing
from collections import abc
from typing import Annotated, Any

from pydantic import WrapSerializer

if typing.TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["concrete"]

_SEQUENCES = (abc.Iterable, abc.Collection, abc.Container, abc.Reversible)
#: The generic types whose arguments are looked at. A user's class keeps its own.
_KNOWN = (list, dict, tuple, set, frozenset, abc.Sequence, abc.Mapping, abc.MutableMapping, abc.MutableSequence)


def concrete(annotation: Any) -> Any:
    """Return the annotation by which a value is written and read.

    An iterable, a collection and a sequence take a list or a tuple and come back as a list. pydantic would make an
    iterator of an iterable, which can be read once. A `collections.abc.Set` takes a set or a frozenset and comes back
    as a frozenset.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None and isinstance(annotation, type):
        origin = annotation
    if origin in _SEQUENCES:
        return abc.Sequence[concrete(parts[0]) if parts else Any]  # type: ignore[misc] # made at run time
    if origin is abc.Set:
        items = concrete(parts[0]) if parts else Any
        return Annotated[frozenset[items], WrapSerializer(_from_set)]  # type: ignore[valid-type] # made at run time
    if not parts or (origin not in _KNOWN and origin not in (typing.Union, types.UnionType, Annotated)):
        return annotation
    if origin is Annotated:
        inner = concrete(annotation.__origin__)
        return annotation if inner is annotation.__origin__ else Annotated[inner, *annotation.__metadata__]
    made = tuple(map(concrete, parts))
    if all(new is old for new, old in zip(made, parts, strict=True)):
        return annotation
    return typing.Union[made] if origin in (typing.Union, types.UnionType) else origin[made]  # noqa: UP007 - a tuple


def _from_set(value: Any, write: Callable[[Any], Any]) -> Any:
    return write(frozenset(value) if type(value) is set else value)
