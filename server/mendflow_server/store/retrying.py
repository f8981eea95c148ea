"""Store calls that the server depends on, each repeated until it succeeds.

While a call fails, `RetryingStore.failure` has the reason for the health checks. When the cause is gone, the call
succeeds without an operator. Only damage does not pass, so a damaged part is read less and less often. A workflow in a
damaged part of the file is skipped and not changed.
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

#: The pause before a retry, in seconds. After damage each pause is twice as long as the one before, up to the longest.
PAUSE = 0.25
LONGEST_PAUSE = 60.0

_T = TypeVar("_T")


class RetryingStore:
    """A store whose calls are repeated until they succeed. ``pause`` waits for so many seconds before a retry."""

    def __init__(self, store: Store, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._store = store
        self._pause = pause
        #: Why the last call failed; empty after a success.
        self.failure = ""
        #: The keys of workflows in damaged parts of the file. They are skipped for the rest of this process.
        self.unreadable: set[int] = set()

    async def until_done(self, call: Callable[[], Awaitable[_T]], *, also_damaged: bool = True) -> _T:
        """Repeat a call until it succeeds, and return its result.

        Raise `StoreDamaged` unless ``also_damaged`` is set.
        """
        failed = ""
        seconds = PAUSE
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
                await self._pause(seconds)
                seconds = min(2 * seconds, LONGEST_PAUSE) if isinstance(error, StoreDamaged) else PAUSE
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
