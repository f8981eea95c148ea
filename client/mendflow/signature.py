"""What a function's annotations say about its input and its output."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any

from mendflow.codec import ValueType
from mendflow.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["parameter_type", "return_type"]


def return_type(function: Callable[..., Any]) -> ValueType[Any]:
    """Answer the type of what the function returns; any JSON value when it does not say."""
    return ValueType.of(_hints(function).get("return", Any))


def parameter_type(function: Callable[..., Any]) -> ValueType[Any] | None:
    """Answer the type of the function's first parameter; None when it takes none."""
    parameters = list(inspect.signature(function).parameters)
    return ValueType.of(_hints(function).get(parameters[0], Any)) if parameters else None


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        msg = (
            f"{function.__qualname__}: the annotation {error.name!r} is not known where the function is defined; "
            "define or import it at the top of the module (not under TYPE_CHECKING, not inside a function)"
        )
        raise DefinitionError(msg) from error
