"""What was begun is seen through, also when the caller hangs up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["Finisher"]

T = TypeVar("T")


class Finisher:
    """Runs work that must not be cut off halfway.

    gRPC cancels a handler's task when the caller hangs up or its deadline
    passes; the work goes on in a task of its own, which is kept from the
    garbage collector until it is done.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Answer what ``work`` answers. Cancelling this does not cancel ``work``."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)
