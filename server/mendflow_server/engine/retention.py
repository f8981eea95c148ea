"""The operator's commands on what the server keeps: hold, release and delete.

They change no history, so they are no messages. The store decides them, in one transaction each.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from mendflow_server import errors
from mendflow_server.engine.availability import ensure_available
from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.records import PurgeOutcome

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mendflow_server.engine.loader import Loader
    from mendflow_server.execution.services import Services
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Row

log = structlog.get_logger("mendflow.engine")

_T = TypeVar("_T")


class RetentionCommands:
    """Holds, releases and deletes. Each raises `Draining`, `StoreNotCommitting` and `WorkflowNotFound`."""

    def __init__(self, *, services: Services, store: Store, loader: Loader) -> None:
        self._services = services
        self._store = store
        self._loader = loader

    async def set_held(self, workflow_id: str, *, held: bool, actor: str) -> Row:
        """Hold a workflow, or release it; return its row."""
        ensure_available(self._services)
        row = await self._committed(self._store.set_held(workflow_id, held=held))
        if row is None:
            raise errors.WorkflowNotFound(workflow_id)
        self._loader.note_held(row.key, held=held)
        log.info("workflow_held" if held else "workflow_released", workflow_id=workflow_id, actor=actor)
        return row

    async def delete(self, workflow_id: str, *, uid: str, actor: str) -> None:
        """Delete a workflow that has ended. An empty ``uid`` matches any workflow.

        Raises `WrongState` and `WorkflowHeld`.
        """
        ensure_available(self._services)
        outcome, state = await self._committed(self._store.purge(workflow_id, uid=uid))
        if outcome is PurgeOutcome.NOT_FOUND:
            raise errors.WorkflowNotFound(workflow_id)
        if outcome is PurgeOutcome.HELD:
            raise errors.WorkflowHeld(workflow_id)
        if outcome is PurgeOutcome.OPEN:
            raise errors.WrongState(workflow_id, state, errors.not_ended(workflow_id, state))
        log.info("workflow_deleted", workflow_id=workflow_id, actor=actor)

    async def _committed(self, write: Awaitable[_T]) -> _T:
        """Return what the store returns. It has as long as for a commit."""
        try:
            return await asyncio.wait_for(write, self._services.settings.commit_patience)
        except TimeoutError:
            raise errors.StoreNotCommitting("the store is slow") from None
        except StoreDamaged:
            raise errors.StoreNotCommitting(self._store.damage) from None
