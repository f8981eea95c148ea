"""A committer on a store, and a change that it decides."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mendflow_server.runtime.clock import SystemClock
from mendflow_server.store.committer import Committer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Change, CommitOutcome


@contextlib.asynccontextmanager
async def committing(store: Store) -> AsyncIterator[Committer]:
    """Run a committer, which settles commits of unknown outcome."""
    committer = Committer(store, SystemClock(), lambda: None)
    task = asyncio.create_task(committer.run())
    yield committer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def submitted(committer: Committer, change: Change) -> asyncio.Future[CommitOutcome]:
    """Submit a change, and return a future of its outcome."""
    future: asyncio.Future[CommitOutcome] = asyncio.get_running_loop().create_future()
    committer.submit(change, lambda _, outcome: future.set_result(outcome))
    return future
