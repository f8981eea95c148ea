"""Reading committed workflows, from memory where they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2
from mendflow_server import errors
from mendflow_server.engine.requests import Snapshot
from mendflow_server.history.state import FINAL_STATES

if TYPE_CHECKING:
    from mendflow_server.engine.cache import ExecutionCache
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Cursor, Filter, Page, Row


class WorkflowReader:
    """Committed rows and events."""

    def __init__(self, store: Store, cache: ExecutionCache) -> None:
        self._store = store
        self._cache = cache

    async def find(self, workflow_id: str) -> Row:
        """Return a workflow's committed row. Raises `WorkflowNotFound`."""
        execution = self._cache.find(workflow_id)
        if execution is not None and execution.stored and not execution.closed:
            return execution.row
        row = (await self._store.find([workflow_id])).get(workflow_id)
        if row is None:
            raise errors.WorkflowNotFound(workflow_id)
        return row

    async def snapshot(self, workflow_id: str) -> Snapshot:
        """Return a workflow with its first and final event, in at most one trip to the store.

        Raises `WorkflowNotFound`.
        """
        execution = self._cache.find(workflow_id)
        if execution is not None and execution.stored and not execution.closed:
            started = execution.history.started
            if started is not None:
                return Snapshot(execution.row, started, None)
        stored = await self._store.snapshot(workflow_id)
        if stored is None:
            raise errors.WorkflowNotFound(workflow_id)
        return Snapshot(stored.row, _event(stored.first), _event(stored.last))

    async def final_event(self, row: Row) -> event_pb2.Event | None:
        """Return the final event of a workflow that has ended; None: it is open. Raises `WorkflowNotFound`."""
        if row.state not in FINAL_STATES:
            return None
        event = await self.event(row.key, row.last_sequence)
        if event is None:
            raise errors.WorkflowNotFound(row.workflow_id)  # It was deleted meanwhile.
        return event

    async def event(self, key: int, sequence: int) -> event_pb2.Event | None:
        """Return one event of the workflow with this key; None: there is none of this sequence."""
        found = await self._store.read_events(key, sequence - 1, limit=1, max_bytes=1)
        return _event(found[0] if found else None)

    async def events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Return stored events after a sequence, oldest first: at most ``limit`` and ``max_bytes``, at least one."""
        return await self._store.read_events(key, after_sequence, limit=limit, max_bytes=max_bytes)

    async def page(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of rows, newest first."""
        return await self._store.list_workflows(condition, limit=limit, after=after)


def _event(data: bytes | None) -> event_pb2.Event | None:
    return None if data is None else event_pb2.Event.FromString(data)
