"""Parsing of command line parameters. The functions are click callbacks."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mendflow.addresses import check_target
from mendflow.codec.problems import strict_json
from mendflow.v1 import event_pb2, payload_pb2, workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "KINDS",
    "STATES",
    "complete_kind",
    "complete_state",
    "json_payload",
    "kind_number",
    "label",
    "listed",
    "moment",
    "none_empty",
    "not_empty",
    "server",
    "state_number",
]


def _names(enum: Any, prefix: str) -> dict[str, int]:
    """Return the values of an enum by their short names, without UNSPECIFIED."""
    return {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}


#: The values of --state and --kind.
STATES: Final = _names(workflow_pb2.WorkflowState, "WORKFLOW_STATE_")
KINDS: Final = _names(event_pb2.EventKind, "EVENT_KIND_")


def server(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return the address of a server."""
    if value is None:
        return None
    try:
        return check_target(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def not_empty(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return an id or a name. An empty one is often a variable of the shell that is not set."""
    if value is not None and not value.strip():
        raise click.BadParameter("must not be empty", param=parameter)
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not valid UTF-8", param=parameter) from None
    return value


def none_empty(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return ids or names, each as `not_empty` does."""
    for value in values:
        not_empty(context, parameter, value)
    return values


def json_payload(_: click.Context, parameter: click.Parameter, value: str | None) -> payload_pb2.Payload | None:
    """Return a JSON parameter as a payload. The value is JSON text, @FILE, or - for standard input."""
    if value is None:
        return None
    try:
        text = _read(value)
    except (OSError, UnicodeDecodeError) as error:
        name = "standard input" if value == "-" else value[1:]
        raise click.BadParameter(f"{name} cannot be read: {error}", param=parameter) from None
    try:
        # The server refuses a member that is given twice too. A float has no limit of digits.
        strict_json(text, unique=True, parse_int=float)
    except ValueError as error:
        is_text = not value.startswith("@") and value != "-"
        hint = "; write a string as '\"text\"' and a file as @FILE" if is_text else ""
        raise click.BadParameter(f"not JSON: {error}{hint}", param=parameter) from None
    except RecursionError:
        raise click.BadParameter("not readable JSON: it is nested too deeply", param=parameter) from None
    return payload_pb2.Payload(json=text)


def _read(value: str) -> str:
    if value == "-":
        if sys.stdin is None:
            raise OSError("it is closed")
        content = sys.stdin.buffer.read()
    elif value.startswith("@"):
        content = Path(value[1:]).read_bytes()
    else:
        return value
    # Some editors write a byte order mark, which JSON does not allow.
    return content.decode("utf-8-sig")


def label(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return NAME=VALUE pairs as a dict."""
    found = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} must have the form NAME=VALUE", param=parameter)
        if name in found:
            raise click.BadParameter(f"label {name!r} must not be given twice", param=parameter)
        found[name] = content
    return found


def state_number(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int]:
    """Return the numbers of states, which are given by their short names."""
    return [_number(STATES, value, parameter) for value in values]


def kind_number(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int]:
    """Return the numbers of event kinds, which are given by their short names."""
    return [_number(KINDS, value, parameter) for value in values]


def complete_state(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Return the states that begin with a text, for shell completion."""
    return _completions(STATES, begun)


def complete_kind(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Return the event kinds that begin with a text, for shell completion."""
    return _completions(KINDS, begun)


def listed(known: Mapping[str, int]) -> str:
    """Return names as text for a help page."""
    return ", ".join(known)


def _number(known: Mapping[str, int], value: str, parameter: click.Parameter) -> int:
    number = known.get(value.lower().replace("-", "_"))
    if number is None:
        raise click.BadParameter(f"{value!r} must be one of {listed(known)}", param=parameter)
    return number


def _completions(known: Mapping[str, int], begun: str) -> list[str]:
    return [name for name in known if name.startswith(begun.lower().replace("-", "_"))]


def moment(_: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return an ISO 8601 time in UTC. A time without a zone is local time."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} must be an ISO 8601 time such as 2030-01-31T12:00:00", param=parameter
        ) from None
