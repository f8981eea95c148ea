"""The rule of a pause, word for word, for calls in a line: a second model of what the server does."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fuzz.edits import Node, leaves_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow.v1.event_pb2 import Event


@dataclass
class Records:
    """The calls of a line that a history holds."""

    #: Word, name and effect of each call, by its key.
    calls: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    #: How many signals of each name are not taken yet.
    mailbox: Counter[str] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        kind = event.WhichOneof("detail") or ""
        detail: Any = getattr(event, kind)
        if kind == "attempt_started":
            self.calls[detail.step_key] = ("step", detail.step_name, json.loads(detail.input.json)["effect"])
        elif kind == "timer_started":
            self.calls[detail.key] = ("sleep", "", 0)
        elif kind == "signal_awaited":
            self.calls[detail.key] = ("signal", detail.name, 0)
        elif kind == "signal_received":
            self.mailbox[detail.name] += 1
        elif kind in ("attempt_succeeded", "timer_fired", "signal_taken"):
            self.closed.add(detail.step_key if kind == "attempt_succeeded" else detail.key)


def rule(events: Sequence[Event], line: Node) -> tuple[bool, str]:
    """Return whether code that makes these calls in a line pauses, and the key at which it waits otherwise."""
    records = Records()
    for event in events:
        records.add(event)
        if event.HasField("signal_taken"):
            name = events[event.signal_taken.signal_sequence - 1].signal_received.name
            records.mailbox[name] -= 1
            records.calls[event.signal_taken.key] = ("signal", name, 0)
    unclaimed, new = set(records.calls), False
    counts: Counter[str] = Counter()
    for _, leaf in leaves_of(line):
        base = leaf.key or {"step": leaf.name, "sleep": "sleep", "signal": f"signal:{leaf.name}"}[leaf.word]
        counts[base] += 1
        key = base if counts[base] == 1 else f"{base}#{counts[base]}"
        recorded = records.calls.get(key)
        new = new or (recorded is None and bool(unclaimed) and not leaf.inserted)
        unclaimed.discard(key)
        if recorded not in (None, (leaf.word, leaf.name, leaf.effect)):
            return True, ""
        if key in records.closed:
            continue
        if leaf.word != "signal" or not records.mailbox[leaf.name]:
            return new and bool(unclaimed), key
        records.mailbox[leaf.name] -= 1  # The signal is there already.
    return bool(unclaimed), ""
