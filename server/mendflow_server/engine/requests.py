"""What the engine returns to its callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mendflow.v1.event_pb2 import Event
    from mendflow_server.store.records import Row

__all__ = ["Snapshot", "StartResult"]


class Snapshot(NamedTuple):
    """A committed workflow, with its first event and, when it has ended, its final one."""

    row: Row
    started: Event | None
    final: Event | None


class StartResult(NamedTuple):
    """A committed start."""

    row: Row
    #: Whether this call started the workflow; otherwise it exists already, with the same type and input.
    started: bool
    #: The final event, where the caller waited for the end and it came.
    final: Event | None = None
