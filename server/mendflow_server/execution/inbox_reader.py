"""Reading a workflow's inbox while it is in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.runtime.tasks import BackgroundTasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Message
    from mendflow_server.store.retrying import RetryingStore


class InboxReader:
    """Reads inboxes in the background, until the store returns them."""

    def __init__(self, store: Store, retrying: RetryingStore) -> None:
        self._store = store
        self._retrying = retrying
        self._tasks = BackgroundTasks()

    def read(self, key: int, then: Callable[[list[Message]], None]) -> None:
        """Read the inbox of the workflow with this key, and pass its messages to ``then``, oldest first."""
        self._tasks.start(self._read(key, then))

    async def _read(self, key: int, then: Callable[[list[Message]], None]) -> None:
        then(await self._retrying.until_done(lambda: self._store.read_inbox(key)))

    @property
    def idle(self) -> bool:
        """Whether no inbox is being read."""
        return self._tasks.idle

    def close(self) -> None:
        """Stop reading."""
        self._tasks.cancel()
