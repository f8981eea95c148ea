"""Environment variables of other libraries, with values that those libraries cannot take.

gRPC and OpenTelemetry read their variables when they are imported, and some values make them raise or end the process.
This module hides such a value during the import, and notes what was ignored. A client or a server reports it once.
`mendflow` imports it first, because protobuf is what everything else imports.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["IgnoredVariable", "note_ignored", "replaced", "take_ignored"]


class IgnoredVariable(NamedTuple):
    """A variable whose value, or a part of it, is ignored."""

    variable: str
    value: str
    problem: str
    #: What is done instead.
    instead: str

    def __str__(self) -> str:
        """Return all of it in one line."""
        return f"{self.variable}={self.value!r} is ignored: {self.problem}; {self.instead}"


#: What no client and no server has reported yet. The variables belong to the process, so this does too.
_UNREPORTED: Final[list[IgnoredVariable]] = []


def note_ignored(variable: str, problem: str, instead: str, *, value: str | None = None) -> None:
    """Note that a variable's value is ignored, for the next report. ``value`` stands for one that is secret."""
    shown = os.environ.get(variable, "") if value is None else value
    _UNREPORTED.append(IgnoredVariable(variable, shown, problem, instead))


def take_ignored() -> list[IgnoredVariable]:
    """Return what was ignored since the last call."""
    taken = _UNREPORTED[:]
    del _UNREPORTED[: len(taken)]
    return taken


@contextlib.contextmanager
def replaced(values: Mapping[str, str | None]) -> Iterator[None]:
    """Give variables other values for a while; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


_PROTOBUF: Final = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"

if os.environ.get(_PROTOBUF, "upb") not in ("upb", "python"):
    if os.environ[_PROTOBUF]:
        note_ignored(_PROTOBUF, "protobuf takes upb or python", "protobuf chooses")
    with replaced({_PROTOBUF: None}):
        import google.protobuf.internal.api_implementation  # noqa: F401
