"""What the code says about its classes and their fields, for the comments of a .proto."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic.fields import FieldInfo

__all__ = ["documentation", "field_comments"]


def documentation(thing: Any) -> str:
    """Answer the docstring that someone wrote for a class; empty: nobody did."""
    text = vars(thing).get("__doc__") if isinstance(thing, type) else None
    if not isinstance(text, str) or text.startswith(f"{thing.__name__}("):
        return ""  # A dataclass without one is given its signature.
    return inspect.cleandoc(text)


def field_comments(cls: Any) -> dict[str, str]:
    """Answer the fields' descriptions, or the strings below them in the source, by their Python names."""
    found: dict[str, str] = {}
    for each in reversed(getattr(cls, "__mro__", ())):
        if each is not object and each.__module__.partition(".")[0] not in ("pydantic", "builtins", "typing"):
            found |= _strings_below(each)
    described = getattr(cls, "__pydantic_fields__", None) or {}
    for name, info in described.items():
        if isinstance(info, FieldInfo) and info.description:
            found[name] = info.description
    return {name: inspect.cleandoc(text) for name, text in found.items()}


def _strings_below(cls: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    if not tree.body or not isinstance(tree.body[0], ast.ClassDef):
        return {}
    found = {}
    body = tree.body[0].body
    for statement, following in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            found[statement.target.id] = following.value.value
    return found
