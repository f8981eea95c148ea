"""The Python modules that `mendflow serve` and `mendflow verify` import, and their workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mendflow.authoring.workflow import Workflow, check_steps
from mendflow.cli.modules import import_module
from mendflow.client.propagation import prepare_propagation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    """Import modules by their names or paths, and return their workflows.

    Raise `click.UsageError` when a module cannot be imported or has no workflow, or when two workflows have one name.
    Raise `DefinitionError` when a step has types that cannot be recorded.
    """
    prepare_propagation()  # So that a module that imports OpenTelemetry can do so.
    found: dict[str, Workflow[Any, Any]] = {}
    kept: dict[int, tuple[Workflow[Any, Any], str]] = {}
    for name in modules:
        module = import_module(name)
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
