"""The calls that events open, and a line of text for an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow.v1.event_pb2 import Event


#: The events that open a call, each with the field of its key.
OPENS = {
    "attempt_started": "step_key",
    "timer_started": "key",
    "signal_awaited": "key",
    "signal_taken": "key",
    "call_cancelled": "key",
}


def opened_key(event: Event) -> str:
    """Return the key of the call that an event opens, or an empty string."""
    kind = event.WhichOneof("detail") or ""
    return str(getattr(getattr(event, kind), OPENS[kind])) if kind in OPENS else ""


def opened_by(events: Sequence[Event]) -> set[str]:
    """Return the keys of all calls that these events record."""
    return {key for event in events if (key := opened_key(event))}


def particulars(event: Event) -> str:
    """Return the start of what the event says."""
    return " ".join(str(getattr(event, event.WhichOneof("detail") or "")).split())[:120]
