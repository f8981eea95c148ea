"""Put together what is needed to drive workflows, in portions of a bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.columns import message_of, row_of
from mendflow_server.store.records import Heartbeat, Loaded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Workflows loaded in one transaction.
_LOADED_AT_ONCE: Final = 100

#: The most events, and the most bytes of events, read in one step.
EVENTS_AT_ONCE: Final = 1_000
BYTES_AT_ONCE: Final = 4_000_000


def portions(keys: Sequence[int]) -> Iterator[list[int]]:
    """Yield the keys in portions, each of which is loaded in one transaction."""
    for start in range(0, len(keys), _LOADED_AT_ONCE):
        yield list(keys[start : start + _LOADED_AT_ONCE])


def loaded_by_key(rows: Iterable[Sequence[Any]]) -> dict[int, Loaded]:
    """Return the workflows with these rows, without anything else yet."""
    return {row.key: Loaded(row, [], [], []) for row in map(row_of, rows)}


def add_messages(loaded: Mapping[int, Loaded], found: Iterable[Sequence[Any]]) -> None:
    """Add messages: row key, id, kind, request id, time and content."""
    for key, number, kind, request_id, time, content in found:
        each = loaded[key]
        each.inbox.append(message_of(number, each.row.workflow_id, kind, request_id, time, content))


def add_heartbeats(loaded: Mapping[int, Loaded], found: Iterable[Sequence[Any]]) -> None:
    """Add heartbeats: row key, step key, attempt and details."""
    for key, step_key, attempt, details in found:
        loaded[key].heartbeats.append(Heartbeat(step_key, attempt, details))
