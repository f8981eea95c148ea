"""What cannot be done without: it is asked of the store until the store can do it.

While it cannot, `Trying.failing` says why, for the health; and when the cause is gone all goes on by itself. Only
damage does not pass: a workflow that lies there is left out, and left as it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from mendflow_server.store.interface import CommitUnknown, StoreDamaged, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mendflow_server.store.interface import Loaded, Store

log = structlog.get_logger("mendflow.engine")

#: How long to wait before what failed is tried again, in seconds.
PAUSE = 0.25

_T = TypeVar("_T")


class Trying:
    """Asks a store again and again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Why the last try failed; empty while all goes well.
        self.failing = ""
        #: Keys of workflows that lie where the file is damaged: left as they are until a whole file is served.
        self.left_alone: set[int] = set()

    async def until_done(self, call: Callable[[], Awaitable[_T]], *, also_damaged: bool = True) -> _T:
        """Call until it succeeds. Without ``also_damaged``, raises `StoreDamaged`."""
        failed = ""
        while True:
            try:
                result = await call()
            except (StoreUnavailable, CommitUnknown) as error:
                if isinstance(error, StoreDamaged) and not also_damaged:
                    if failed:
                        self.failing = ""
                    raise
                if failed != str(error):
                    log.warning("store_does_not_answer", error=str(error))
                self.failing = failed = str(error)
                await asyncio.sleep(PAUSE)
            else:
                if failed:
                    self.failing = ""
                    log.info("store_answers_again")
                return result

    async def load(self, keys: Sequence[int]) -> list[Loaded]:
        """Read workflows. Those that cannot be read are left out, without a loss to the others."""
        keys = [key for key in keys if key not in self.left_alone]
        try:
            return await self.until_done(lambda: self._store.load(keys), also_damaged=False)
        except StoreDamaged as error:
            if len(keys) <= 1:
                self.left_alone.update(keys)
                log.warning("workflow_not_readable", keys=keys, error=str(error))
                return []
        middle = len(keys) // 2
        return await self.load(keys[:middle]) + await self.load(keys[middle:])
