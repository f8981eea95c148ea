"""Work that continues when the caller disconnects."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Shield"]

T = TypeVar("T")


class Shield:
    """Runs work that must not be interrupted halfway.

    gRPC cancels a handler's task when the caller disconnects or its deadline passes. The work runs in its own task. The
    shield references that task until it is done, so that the garbage collector does not destroy it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``, or raise its exception. Cancelling this call does not cancel ``work``."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)
