"""Store calls that the server cannot do without: each is repeated until it succeeds.

While one fails, `RetryingStore.failure` has the reason for the health checks. The calls succeed again without an
operator once the cause is gone. Only damage does not pass: a workflow stored in a damaged part of the file is left out.
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

#: How long to wait before what failed is tried again, in seconds.
PAUSE = 0.25

_T = TypeVar("_T")


class RetryingStore:
    """Asks a store again and again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Why the last try failed; empty while all goes well.
        self.failure = ""
        #: Keys of workflows that lie where the file is damaged: left as they are until a whole file is served.
        self.unreadable: set[int] = set()

    async def until_done(self, call: Callable[[], Awaitable[_T]], *, also_damaged: bool = True) -> _T:
        """Call until it succeeds. Without ``also_damaged``, raises `StoreDamaged`."""
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
                    log.warning("store_does_not_answer", error=str(error))
                self.failure = failed = str(error)
                await asyncio.sleep(PAUSE)
            else:
                if failed:
                    self.failure = ""
                    log.info("store_answers_again")
                return result

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """Read workflows. Those that cannot be read are left out, without a loss to the others."""
        keys = [key for key in keys if key not in self.unreadable]
        try:
            return await self.until_done(lambda: self._store.load(keys), also_damaged=False)
        except StoreDamaged as error:
            if len(keys) <= 1:
                self.unreadable.update(keys)
                log.warning("workflow_not_readable", keys=keys, error=str(error))
                return []
        middle = len(keys) // 2
        return await self.load(keys[:middle]) + await self.load(keys[middle:])
