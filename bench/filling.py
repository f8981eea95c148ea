"""Stores with many workflows, written through the store's interface.

A real server creates one workflow. Its row and its events are copied under other ids, in batches as large as the
server's batches.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from mendflow.ids import new_id
from mendflow.v1 import event_pb2
from mendflow_server.history.state import set_time
from mendflow_server.store.interface import Batch, Change
from mendflow_server.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mendflow_server.store.interface import Row

#: Workflows in one commit.
AT_ONCE = 5_000


class Pattern:
    """A workflow that a server wrote, as a template for copies."""

    def __init__(self, row: Row, events: list[bytes]) -> None:
        self._row = row
        self._events = [event_pb2.Event.FromString(event) for event in events]

    def again(self, workflow_id: str, wake: float | None) -> Change:
        """Return a copy with another id. If ``wake`` is set, it sleeps until then (seconds since the epoch)."""
        uid = uuid.uuid4().hex
        now = time.time_ns() // 1_000
        row = replace(self._row, key=0, workflow_id=workflow_id, uid=uid, create_time=now)
        if wake is not None:
            row.wake_time = round(wake * 1e6)
        started = self._events[0].workflow_started
        started.workflow_id, started.uid = workflow_id, uid
        for event in self._events:
            if wake is not None and event.HasField("timer_started"):
                set_time(event.timer_started.fire_time, wake)
        return Change(row, None, [(event.sequence, event.SerializeToString()) for event in self._events])


async def read_pattern(path: Path, workflow_id: str, *, upto: int = 1_000) -> Pattern:
    """Read a workflow, as it was after ``upto`` events, from a store that no server has open."""
    store = SqliteStore(path)
    await store.open()
    try:
        row = (await store.find([workflow_id]))[workflow_id]
        events = await store.read_events(row.key, 0, limit=upto, max_bytes=1 << 20)
        return Pattern(replace(row, last_sequence=len(events)), events)
    finally:
        await store.close()


async def fill(
    path: Path, pattern: Pattern, count: int, *, name: Callable[[], str] = new_id, wake: float | None = None
) -> None:
    """Write ``count`` copies to a store that no server has open."""
    store = SqliteStore(path)
    await store.open()
    try:
        for start in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - start)
            await store.commit(Batch([pattern.again(name(), wake) for _ in range(size)]))
    finally:
        await store.close()
