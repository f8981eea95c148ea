"""Where the instances of a class keep their state: in attributes, in slots, or out of sight in a builtin base."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["MODEL_SLOTS", "hidden_base", "shows_fields", "slots_of"]

#: The slots of pydantic's models. Private attributes and extra members are looked for in the schema and the value.
MODEL_SLOTS: Final = frozenset({"__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"})
#: The size of a slot.
_POINTER: Final = tuple.__itemsize__


def slots_of(kind: type) -> tuple[str, ...]:
    """Return the names of the slots of a class and its bases, without those of builtins."""
    return tuple(
        name
        for cls in kind.__mro__
        for name, member in vars(cls).items()
        if isinstance(member, types.MemberDescriptorType) and cls.__module__ != "builtins"
    )


def hidden_base(kind: type) -> type | None:
    """Return the base of a class that keeps state of its own, such as list, str or Exception; None if there is none."""
    for cls in reversed(kind.__mro__[:-1]):
        size = object.__basicsize__ + _POINTER * (
            len(slots_of(cls)) + (cls.__dictoffset__ > 0) + (cls.__weakrefoffset__ > 0)
        )
        if cls.__itemsize__ or cls.__basicsize__ > size:
            return cls
    return None


def shows_fields(kind: Any, fields: Collection[str], own: Collection[str] = ()) -> bool:
    """Return whether the state of a class is its fields, and reading one returns what is stored.

    ``own`` are the slots of the library that made the class.
    """
    if hidden_base(kind) is not None or kind.__getattribute__ is not object.__getattribute__:
        return False
    if any(name not in fields and name not in own for name in slots_of(kind)):
        return False
    if any(not isinstance(vars(cls).get("__dict__", _GETTER), types.GetSetDescriptorType) for cls in kind.__mro__):
        return False
    return not any(_intercepts(inspect.getattr_static(kind, name, None)) for name in fields)


#: The usual descriptor of an instance's attributes.
_GETTER: Final = vars(types.FunctionType)["__dict__"]


def _intercepts(member: Any) -> bool:
    """Return whether a member of a class, such as a property, is used instead of the instance's attribute."""
    kind = type(member)
    return (hasattr(kind, "__set__") or hasattr(kind, "__delete__")) and kind is not types.MemberDescriptorType
