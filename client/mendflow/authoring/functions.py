"""What can be decorated: a function whose calls a server can make without an object."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from mendflow.errors import DefinitionError

__all__ = ["check_function"]

#: The names that a method gives to the object or the class it belongs to.
_OWNERS: Final = ("self", "cls")
_FREE: Final = "define a function outside the class, and pass it what it needs as arguments"
_WRAP: Final = "define a function that calls it, and decorate that function"
#: What only looks like a function, what it is, and the way out.
_KINDS: Final[tuple[tuple[type[Any], str, str], ...]] = (
    (type, "is a class", "define a function that makes the object and calls it, and decorate that function"),
    (
        staticmethod,
        "is a static method",
        "write @staticmethod above the decorator, or move the function out of the class",
    ),
    (classmethod, "is a class method", _FREE),
    (property, "is a property", _FREE),
    (functools.cached_property, "is a property", _FREE),
)
#: Classes of the standard library whose objects `inspect` takes for functions.
_OBJECTS: Final = (functools.partial, functools.partialmethod, functools.singledispatchmethod)


def check_function(decorator: str, target: object, *, only_async: bool) -> None:
    """Raise `DefinitionError` unless ``target`` is a function that ``decorator`` accepts. The error has the way out."""
    kind = "an async def function" if only_async else "a def or async def function"
    problem = _problem(target)
    if problem is None and only_async and not inspect.iscoroutinefunction(target):
        problem = f"is not {kind}", "write async def before its name" if inspect.isfunction(target) else _WRAP
    if problem is not None:
        what, way_out = problem
        msg = f"{decorator} must decorate {kind}, and {_name(target)} {what}; {way_out}"
        raise DefinitionError(msg)


def _problem(target: Any) -> tuple[str, str] | None:
    """Return what is wrong with a target and the way out; None if nothing is."""
    if isinstance(target, str):
        return "is a string", f"give a name as name={target!r}"
    for kind, what, way_out in _KINDS:
        if isinstance(target, kind):
            return what, way_out
    if isinstance(target, _OBJECTS) or not inspect.isroutine(target):
        return f"is an object of the class {type(target).__name__}", _WRAP
    return _problem_of_function(target)


def _problem_of_function(function: Any) -> tuple[str, str] | None:
    # functools.cache keeps what the function returns: a coroutine or a generator, which can be used only once.
    cached = hasattr(function, "cache_info")
    inner = inspect.unwrap(function) if cached else function
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        return "is a generator", "return a list instead of yielding its items"
    if cached and inspect.iscoroutinefunction(inner):
        return "caches a coroutine, which can be awaited only once", "remove the cache; the result is recorded anyway"
    if getattr(function, "__name__", "") == "<lambda>" and not function.__annotations__:
        return "is a lambda, whose values have no types", "write a def function with the types of its values"
    owner = _first_parameter(function)
    if owner in _OWNERS:
        return f"is a method: a server has no {owner!r} to call it with", _FREE
    return None


def _first_parameter(function: Any) -> str | None:
    try:
        # The signature of a bound method does not have its object.
        return next(iter(inspect.signature(function).parameters), None)
    except (ValueError, TypeError):
        return None  # A builtin may have no signature, which the check of its types reports.


def _name(target: Any) -> str:
    name = getattr(target, "__qualname__", None)
    return name if isinstance(name, str) else repr(target)
