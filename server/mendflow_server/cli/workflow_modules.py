"""The Python modules that `mendflow serve` and `mendflow verify` import, and their workflows."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from mendflow.authoring.workflow import Workflow, check_steps

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

__all__ = ["load_workflows"]


def load_workflows(modules: Iterable[str]) -> dict[str, Workflow[Any, Any]]:
    """Import modules, with the working directory first on the path, and return their workflows by name.

    Raise `click.UsageError` when a module cannot be imported or has no workflow, or when two workflows have one name.
    Raise `DefinitionError` when a step has types that cannot be recorded.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: dict[str, Workflow[Any, Any]] = {}
    for name in modules:
        module = _import(name)
        workflows = [value for value in vars(module).values() if isinstance(value, Workflow)]
        if not workflows:
            msg = f"module {name!r} has no function decorated with @workflow"
            raise click.UsageError(msg)
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
    return found


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
