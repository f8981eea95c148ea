"""Whether a call has the input that the history records, by the types of today.

Two payloads that are the same text are the same input. Otherwise both are read
by today's type and written again, with every default filled in: a new optional
field changes nothing. What is recorded and cannot be read, or would lose a
member on that way, is another input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.codec import lost_member, same_payload, shown
from mendflow.errors import PayloadError

if TYPE_CHECKING:
    from mendflow.codec import Arguments, ValueType
    from mendflow.v1.payload_pb2 import Payload


def input_problem(arguments: Arguments, recorded: Payload | None, given: Payload) -> str:
    """Return why a step's ``given`` input is not the ``recorded`` one; empty when it is."""
    if recorded == given if recorded is not None else not given.WhichOneof("kind"):
        return ""
    difference = f"recorded input {shown(recorded)}, called with {shown(given)}"
    try:
        canonical = arguments.canonical(recorded)
        again = arguments.canonical(recorded)
        wanted = arguments.canonical(given)
    except PayloadError as error:
        return f"{difference}: the recorded input does not fit the step's parameters any more: {error}"
    lost = lost_member(recorded, canonical)
    if lost:
        return f"{difference}: the step's parameters do not have {lost} any more"
    if same_payload(canonical, wanted):
        return ""
    if not same_payload(canonical, again):
        return f"{difference}: a default of its type is another value each time; give it a constant one"
    return difference


def is_unstable(value_type: ValueType[Any], payload: Payload | None) -> bool:
    """Return whether a payload is another value each time that it is read, for a default of its type changes."""
    try:
        first, second = (value_type.encode(value_type.decode(payload)) for _ in range(2))
    except PayloadError:
        return False
    return not same_payload(first, second)
