"""The Python modules that `mendflow serve` and `mendflow verify` import, and their workflows."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mendflow.authoring.workflow import Workflow, check_steps

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

__all__ = ["NotServed", "load_workflows"]


class NotServed(NamedTuple):
    """A workflow that a module keeps in a class or a collection, where the server does not serve it."""

    workflow_type: str
    place: str

    def __str__(self) -> str:
        return f"workflow {self.workflow_type!r} in {self.place} is not served; {self.advice}"

    @property
    def advice(self) -> str:
        """What to do."""
        return "assign it to a global name of its module"


class Loaded(NamedTuple):
    """The workflows of modules by name, and those that are not served."""

    workflows: dict[str, Workflow[Any, Any]]
    not_served: list[NotServed]


def load_workflows(modules: Iterable[str]) -> Loaded:
    """Import modules, with the working directory first on the path, and return their workflows.

    Raise `click.UsageError` when a module cannot be imported or has no workflow, or when two workflows have one name.
    Raise `DefinitionError` when a step has types that cannot be recorded.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: dict[str, Workflow[Any, Any]] = {}
    kept: dict[int, tuple[Workflow[Any, Any], str]] = {}
    for name in modules:
        module = _import(name)
        workflows = [value for value in vars(module).values() if isinstance(value, Workflow)]
        inner = [(each, f"{module.__name__}.{place}") for place, each in _inside(vars(module))]
        if not workflows:
            msg = f"module {name!r} has no function decorated with @workflow"
            hints = [str(NotServed(each.name, place)) for each, place in inner]
            raise click.UsageError(": ".join([msg, *hints[:1]]))
        for each, place in inner:
            kept.setdefault(id(each), (each, place))
        check_steps(vars(module))
        for definition in workflows:
            other = found.setdefault(definition.name, definition)
            if other is not definition:
                msg = (
                    f"two workflows are named {definition.name!r}: {other.function.__module__}."
                    f"{other.function.__qualname__} and {definition.function.__module__}."
                    f"{definition.function.__qualname__}; give one another name with @workflow(name=...)"
                )
                raise click.UsageError(msg)
    served = {id(definition) for definition in found.values()}
    return Loaded(found, [NotServed(each.name, place) for key, (each, place) in kept.items() if key not in served])


def _inside(namespace: dict[str, Any]) -> Iterator[tuple[str, Workflow[Any, Any]]]:
    """Yield the workflows in the classes and collections of a namespace, each with its place."""
    for name, thing in list(namespace.items()):
        if name.startswith("__"):
            continue  # `__builtins__` and others, which are Python's.
        for place, member in _members(thing):
            value: Any = member.__func__ if issubclass(type(member), staticmethod) else member
            if issubclass(type(value), Workflow):
                yield f"{name}{place}", value


def _members(thing: Any) -> Iterator[tuple[str, Any]]:
    # isinstance would call the object's own __class__, which may raise.
    kind = type(thing)
    if issubclass(kind, type):
        yield from ((f".{name}", value) for name, value in list(vars(thing).items()))
    elif issubclass(kind, dict):
        yield from ((f"[{key!r}]", value) for key, value in list(dict.items(thing)))
    elif issubclass(kind, list | tuple):
        yield from ((f"[{number}]", value) for number, value in enumerate(list(thing)))
    elif issubclass(kind, set | frozenset):
        yield from (("", value) for value in list(thing))


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            dotted = name.removesuffix(".py").strip("./").replace("/", ".")
            msg = (
                f"module {name!r} not found in the working directory or the environment; "
                f"name it as in `import {dotted}`"
            )
            raise click.UsageError(msg) from None
        raise _import_error(name, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module is the user's code, which may raise anything
        raise _import_error(name, error) from None


def _import_error(name: str, error: BaseException) -> click.UsageError:
    """Return an error with the exception and the line of the module, or of what it imports, that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:
        where = ""  # The message of a SyntaxError has the place.
    else:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
        # Skip the frames of the import system, which say nothing about the module.
        for frame in frames:
            if not frame.filename.startswith("<frozen ") and frame.filename != importlib.__file__:
                where = f" ({frame.filename}, line {frame.lineno})"
    what = "it exits the process" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return click.UsageError(f"module {name!r} cannot be imported: {what}{where}")
