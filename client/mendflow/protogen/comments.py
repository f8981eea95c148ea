"""Docstrings and field comments of classes, for the comments of a .proto file."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic.fields import FieldInfo

__all__ = ["documentation", "field_comments"]


def documentation(thing: Any) -> str:
    """Return the docstring in a class's source, or "" if there is none."""
    text = vars(thing).get("__doc__") if isinstance(thing, type) else None
    if not isinstance(text, str) or text.startswith(f"{thing.__name__}("):
        return ""  # A dataclass without a docstring gets its signature as one.
    return inspect.cleandoc(text)


def field_comments(cls: Any) -> dict[str, str]:
    """Return the description of each field, or its comment in the source, by the field's Python name."""
    found: dict[str, str] = {}
    for each in reversed(getattr(cls, "__mro__", ())):
        if each is not object and each.__module__.partition(".")[0] not in ("pydantic", "builtins", "typing"):
            found |= _in_source(each)
    described = getattr(cls, "__pydantic_fields__", None) or {}
    for name, info in described.items():
        if isinstance(info, FieldInfo) and info.description:
            found[name] = info.description
    return {name: inspect.cleandoc(text) for name, text in found.items()}


def _in_source(cls: type) -> dict[str, str]:
    """Return the comment of each field in the source: the string below it, or the ``#:`` lines above it."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return {}
    if not tree.body or not isinstance(tree.body[0], ast.ClassDef):
        return {}
    lines = source.splitlines()
    found = {}
    for statement, following in itertools.zip_longest(tree.body[0].body, tree.body[0].body[1:]):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        text = _above(lines, statement.lineno)
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            below = following.value.value
            text = below if isinstance(below, str) else text
        if text:
            found[statement.target.id] = text
    return found


def _above(lines: list[str], number: int) -> str:
    """Return the ``#:`` lines directly above line ``number``."""
    above = itertools.takewhile(lambda line: line.startswith("#:"), (line.strip() for line in lines[number - 2 :: -1]))
    return "\n".join(line.removeprefix("#:").strip() for line in reversed(list(above)))
