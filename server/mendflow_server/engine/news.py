"""News of workflows that other replicas drive, for the watchers and waiters of this one.

A notice names what has changed. The poll asks for everything that someone here waits for, so that a lost notice costs
no more than `POLL` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.engine import notices
from mendflow_server.errors import Refusal
from mendflow_server.history.state import FINAL_STATES
from mendflow_server.store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection

    from mendflow_server.engine.cache import ExecutionCache
    from mendflow_server.engine.loader import Loader
    from mendflow_server.engine.reader import WorkflowReader
    from mendflow_server.engine.sharing import Sharing
    from mendflow_server.engine.waiters import Waiters
    from mendflow_server.engine.watch_hub import WatchHub

log = structlog.get_logger("mendflow.engine")

#: The time between two polls, in seconds.
POLL: Final = 1.0
#: The most workflows that one trip to the store asks for.
PAGE: Final = 500


class News:
    """Reports to watchers and waiters what other replicas have committed."""

    def __init__(
        self,
        *,
        sharing: Sharing,
        cache: ExecutionCache,
        reader: WorkflowReader,
        loader: Loader,
        waiters: Waiters,
        watchers: WatchHub,
    ) -> None:
        self._store = sharing.store
        self._left = sharing.roster.left
        self._cache = cache
        self._reader = reader
        self._loader = loader
        self._waiters = waiters
        self._watchers = watchers
        self._changed: set[int] = set()
        self._wake = asyncio.Event()
        self._store.listen(self.heard)

    def heard(self, notice: str) -> None:
        """Act on a notice of another replica."""
        what, keys = notices.parsed(notice)
        if what == notices.LEFT:
            self._left.set()
        elif what == notices.MESSAGES:
            self._loader.deliver_inboxes(keys)
        elif what == notices.CHANGED:
            awaited = self._awaited()
            self._changed.update(key for key in keys if key in awaited)
            if self._changed:
                self._wake.set()

    async def run(self) -> None:
        """Report news until cancelled."""
        while True:
            keys: Collection[int]
            try:
                await asyncio.wait_for(self._wake.wait(), POLL)
            except TimeoutError:
                keys = self._awaited()
            else:
                self._wake.clear()
                keys, self._changed = self._changed, set()
            with contextlib.suppress(StoreError):  # The next poll repeats it.
                await self.report(keys)

    def _awaited(self) -> set[int]:
        """Return the workflows that someone here waits for and another replica drives."""
        return {key for key in (*self._watchers.keys(), *self._waiters.keys()) if key not in self._cache}

    async def report(self, keys: Collection[int]) -> None:
        """Report the news of these workflows."""
        ordered = sorted(keys)
        for start in range(0, len(ordered), PAGE):
            page = ordered[start : start + PAGE]
            rows = await self._store.rows(page)
            for key in page:
                row = rows.get(key)
                if row is None:
                    self._watchers.deleted(key)
                elif key not in self._cache:
                    self._watchers.moved(key, row.last_sequence, ended=row.state in FINAL_STATES)
                    if row.state in FINAL_STATES and key in self._waiters:
                        with contextlib.suppress(Refusal):  # It was deleted meanwhile.
                            final = await self._reader.final_event(row)
                            if final is not None:
                                self._waiters.ended(row, final)
