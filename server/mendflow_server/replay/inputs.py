"""Compare a call's input with the recorded one, using the current types.

Two payloads with the same text are the same input. Otherwise both are decoded
with the current type and encoded again with every default filled in, so a new
optional field makes no difference. A recorded payload that cannot be decoded,
or that would lose a member on the way, is a different input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.codec import difference, lost_member, same_payload, shown
from mendflow.errors import PayloadError

if TYPE_CHECKING:
    from mendflow.codec import Arguments, ValueType
    from mendflow.v1.payload_pb2 import Payload


def input_problem(arguments: Arguments, recorded: Payload | None, given: Payload) -> str:
    """Return why a step's ``given`` input differs from the ``recorded`` one; empty if it does not."""
    if recorded == given if recorded is not None else not given.WhichOneof("kind"):
        return ""
    change = f"recorded input {shown(recorded)}, called with {shown(given)}"
    try:
        canonical = arguments.canonical(recorded)
        again = arguments.canonical(recorded)
        wanted = arguments.canonical(given)
    except PayloadError as error:
        return f"{change}: the recorded input no longer matches the step's parameters: {error}"
    lost = lost_member(recorded, canonical)
    if lost:
        return f"{change}: the step's parameters no longer have {lost}"
    if same_payload(canonical, wanted):
        return ""
    if not same_payload(canonical, again):
        return f"{change}: a default of its type differs on every read; use a constant default"
    return change


def is_unstable(value_type: ValueType[Any], payload: Payload | None) -> bool:
    """Return whether a payload decodes to a different value every time, because a default of its type changes."""
    try:
        first, second = (value_type.decode(payload) for _ in range(2))
    except PayloadError:
        return False
    try:
        return not same_payload(value_type.encode(first), value_type.encode(second))
    except PayloadError:  # Such a value cannot be recorded, often because it is another at each read.
        return difference(first, second) is not None
