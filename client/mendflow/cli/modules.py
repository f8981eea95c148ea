"""Importing the modules that a command names, by their names or by the paths of their files."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["import_module"]

_PACKAGE: Final = "__init__.py"


def import_module(given: str) -> ModuleType:
    """Import a module, with the working directory first on the path. Raise `click.UsageError` if that fails.

    ``given`` is a name as in ``import``, or the path of a .py file or of a package's folder: it has a slash, or is the
    name of a file that exists.
    """
    _search_here()
    if "/" not in given and not (given.endswith(".py") and Path(given).is_file()):
        return _import(given, given)
    path = _existing(given)
    root, name = _place(path)
    if root is not None and root not in sys.path:
        sys.path.insert(0, root)
    module = _import(name, given)
    # The name may belong to another module, which Python finds first.
    found = getattr(module, "__file__", None)
    if found is None or not Path(found).exists() or not path.samefile(found):
        raise click.UsageError(
            f"{given!r} would be module {name!r}, but that name belongs to {found or 'a module of Python'}; "
            "rename the file"
        )
    return module


def _search_here() -> None:
    """Put the working directory first on the path, and make the path absolute.

    A step may change the working directory, which must not change what later imports find.
    """
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # The directory itself was removed.
        return
    entries = [str(Path(entry).absolute()) for entry in sys.path]
    sys.path[:] = [here, *(entry for entry in entries if entry != here)]


def _existing(given: str) -> Path:
    """Return the absolute path of a module's file. Raise `click.UsageError` if there is none."""
    path = Path(os.path.abspath(given))  # noqa: PTH100 - Path.absolute keeps "..", and resolve follows symlinks
    if path.is_dir():
        if (path / _PACKAGE).is_file():
            return path / _PACKAGE
        raise click.UsageError(f"folder {given!r} is not a package, because it has no {_PACKAGE}; name a file in it")
    if not path.is_file():
        dotted = given.removesuffix(".py").strip("./").replace("/", ".")
        raise click.UsageError(
            f"module {given!r} not found: there is no file {str(path)!r}; name a .py file, the folder of a package, or "
            f"a module as in `import {dotted}`"
        )
    if path.suffix != ".py":
        raise click.UsageError(f"{given!r} is not a Python module; name a .py file or the folder of a package")
    return path


def _place(path: Path) -> tuple[str | None, str]:
    """Return the folder to import a file from, None for the working directory, and the module's dotted name."""
    parts = [] if path.name == _PACKAGE else [path.stem]
    folder = path.parent
    while (folder / _PACKAGE).is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    here = Path.cwd()
    if len(parts) == 1 and folder != here and here in folder.parents:
        # Its folder may be a package without an __init__.py.
        below = [*folder.relative_to(here).parts, *parts]
        if all(part.isidentifier() for part in below):
            return None, ".".join(below)
    if any("." in part for part in parts):
        raise click.UsageError(f"{str(path)!r} cannot be imported, because its name has a dot; rename the file")
    return (None if folder == here else str(folder)), ".".join(parts)


def _import(name: str, given: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            dotted = name.removesuffix(".py").strip("./")
            raise click.UsageError(
                f"module {given!r} not found in the working directory or the environment; "
                f"name it as in `import {dotted}`"
            ) from None
        raise _error(given, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module is the user's code, which may raise anything
        raise _error(given, error) from None


def _error(given: str, error: BaseException) -> click.UsageError:
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
    return click.UsageError(f"module {given!r} cannot be imported: {what}{where}")
