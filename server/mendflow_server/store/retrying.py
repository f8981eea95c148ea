"""Store calls that the server depends on, each repeated until it succeeds.

While a call fails, `RetryingStore.failure` has the reason for the health checks. When the cause is gone, the call
succeeds without an operator. Only damage does not pass. A workflow in a damaged part of the file is skipped and not
changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from mendflow_server.store.errors import CommitUnknown, StoreDamaged, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Loaded

log = structlog.get_logger("mendflow.engine")

#: The pause before a retry, in seconds.
PAUSE = 0.25

_T = TypeVar("_T")


class RetryingStore:
    """A store whose calls are repeated until they succeed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Why the last call failed; empty after a success.
        self.failure = ""
        #: The keys of workflows in damaged parts of the file. They are skipped for the rest of this process.
        self.unreadable: set[int] = set()

    async def until_done(self, call: Callable[[], Awaitable[_T]], *, also_damaged: bool = True) -> _T:
        """Repeat a call until it succeeds, and return its result.

        Raise `StoreDamaged` unless ``also_damaged`` is set.
        """
        failed = ""
        while True:
            try:
                result = await call()
            except (StoreUnavailable, CommitUnknown) as error:
                if isinstance(error, StoreDamaged) and not also_damaged:
                    if failed:
                        self.failure = ""
                    raise
                if failed != str(error):
                    log.warning("store_unavailable", error=str(error))
                self.failure = failed = str(error)
                await asyncio.sleep(PAUSE)
            else:
                if failed:
                    self.failure = ""
                    log.info("store_available")
                return result

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """Load workflows. Omit those that cannot be read, without losing the others."""
        keys = [key for key in keys if key not in self.unreadable]
        try:
            return await self.until_done(lambda: self._store.load(keys), also_damaged=False)
        except StoreDamaged as error:
            if len(keys) <= 1:
                self.unreadable.update(keys)
                log.warning("workflow_unreadable", keys=keys, error=str(error))
                return []
        middle = len(keys) // 2
        return await self.load(keys[:middle]) + await self.load(keys[middle:])
