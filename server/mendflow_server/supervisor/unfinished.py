"""The workflows that a replica must have in memory, as the store lists them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from mendflow.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mendflow_server.store.interface import Store
    from mendflow_server.store.retrying import RetryingStore

__all__ = ["REASONS", "RETRIED_BY_CODE", "STOPPED_BY_CODE", "Unfinished"]

#: Workflows that are paused for one of these reasons resume when the code that is served now can continue them.
RETRIED_BY_CODE: Final = (event_pb2.STATE_REASON_NON_DETERMINISM, event_pb2.STATE_REASON_WORKFLOW_ERROR)
#: Workflows that stopped for one of these reasons may continue with other code.
STOPPED_BY_CODE: Final = (*RETRIED_BY_CODE, event_pb2.STATE_REASON_NOT_SERVED)
#: Workflows that wait for one of these reasons are loaded although nothing of them is in progress.
REASONS: Final = (
    event_pb2.STATE_REASON_SLOT,
    event_pb2.STATE_REASON_SUSPECTED,
    event_pb2.STATE_REASON_THREAD,
    *STOPPED_BY_CODE,
)
#: How many keys one trip to the store reads.
_PAGE: Final = 1_000


class Unfinished:
    """Lists what is unfinished, as often as the store must be asked."""

    def __init__(self, store: Store, retrying: RetryingStore) -> None:
        self._store = store
        self._retrying = retrying

    async def keys(self) -> set[int]:
        """Return the keys of the workflows that are in progress, or stopped for a reason that may be over.

        Where several replicas use the store, these are the ones of this replica.
        """
        keys = await self._all(self._store.in_progress)
        for reason in REASONS:
            keys |= await self._all(partial(self._store.stopped_for, reason))
        return keys

    async def _all(self, read: Callable[..., Awaitable[list[int]]]) -> set[int]:
        keys: set[int] = set()
        while True:
            page = await self._retrying.until_done(partial(read, after_key=max(keys, default=0), limit=_PAGE))
            keys.update(page)
            if len(page) < _PAGE:
                return keys
