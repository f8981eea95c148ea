"""The workflows of a fuzzed server: types of every shape, and nothing that ends the process."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from google.protobuf.duration_pb2 import Duration  # noqa: TC002 - the type of an input is read at run time
from pydantic import BaseModel, Field

from mendflow import gather, step, wait_signal, workflow
from mendflow.v1.payload_pb2 import Payload
from tests.support import workflows
from tests.support.servers import DEFINITIONS
from tests.support.workflows import note_down

#: These kill the process, hold its loop or a thread for as long as their input says, or write without end.
_NOT_SERVED = {"poison", "holds_thread", "heartbeats", "chatty"}


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    """A model with bounds that refers to itself."""

    name: str = Field(max_length=10)
    weight: Decimal = Decimal(1)
    parts: list[Part] = []


@dataclass
class Shape:
    """A record with fields of many types."""

    when: datetime
    colour: Colour
    lasts: timedelta = timedelta(0)
    part: Part | None = None
    by_name: dict[str, int | float | None] = field(default_factory=dict)
    pair: tuple[int, str] = (0, "")
    kinds: set[str] = field(default_factory=set)


@step
async def keep(value: Any) -> Any:
    """Return the value."""
    return value


@step
async def keep_message(value: Payload) -> Payload:
    """Return the message."""
    return value


@workflow
async def anything(value: Any) -> Any:
    """Accept any value, without a type."""
    return await keep(value)


@workflow
async def shaped(value: Shape) -> str:
    """Accept a record."""
    return str(await keep(value.pair[1]))


@workflow
async def message(value: Payload) -> Payload:
    """Accept a protobuf message."""
    return await keep_message(value)


@workflow
async def message_or_none(value: Duration | None) -> Duration | None:
    """Accept a well-known protobuf message or None."""
    return value


@workflow(signals={"shape": Shape, "message": Payload, "number": int})
async def declared() -> Any:
    """Wait for signals of declared types."""
    return await gather(
        wait_signal("shape", Shape), wait_signal("message", Payload), wait_signal("number", int), wait_signal("any")
    )


@workflow
async def long(count: int) -> int:
    """Write a history of several pages."""
    return len([await note_down(str(index)) for index in range(min(count, 20))])


SERVED = {name: each for name, each in DEFINITIONS.items() if name not in _NOT_SERVED} | {
    each.name: each for each in (anything, shaped, message, message_or_none, declared, long)
}
#: Types that the store has and that no server's code has.
LEFT_OUT = workflows.chatty
