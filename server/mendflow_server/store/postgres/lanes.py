"""Sessions that each do one piece of work after the other.

A lane is what a thread with its connection is to the SQLite store. asyncpg's pool would reset a connection each time
that it takes it back, which costs a round trip, and unlocks what the session has locked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mendflow_server.store.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mendflow_server.store.postgres.connection import Connection

    Work = Callable[[Connection], Awaitable[Any]]

_T = TypeVar("_T")


class Session(Protocol):
    """What a lane works with."""

    async def run(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do work on a connection, which is made if there is none. Raise only the store's errors."""

    async def close(self) -> None:
        """Close the connection."""


class Lanes:
    """A few sessions that take work from one queue."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._queue: asyncio.Queue[tuple[Work, asyncio.Future[Any]] | None] = asyncio.Queue()
        self._stopped = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._serve(session)) for session in sessions]

    def submit(self, work: Callable[[Connection], Awaitable[_T]]) -> asyncio.Future[_T]:
        """Queue work and return a future for its result. Cancelling the future does not stop the work."""
        if self._stopped:
            message = "store is closed"
            raise StoreUnavailable(message)
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((work, future))
        return future

    async def stop(self) -> None:
        """Finish the queued work and close the sessions. May be called twice."""
        if not self._stopped:
            self._stopped = True
            for _ in self._tasks:
                self._queue.put_nowait(None)
        await asyncio.gather(*self._tasks)

    async def _serve(self, session: Session) -> None:
        try:
            while (job := await self._queue.get()) is not None:
                work, future = job
                try:
                    result = await session.run(work)
                except Exception as error:  # noqa: BLE001 - the caller gets it from the future
                    if not future.done():
                        future.set_exception(error)
                else:
                    if not future.done():
                        future.set_result(result)
                del job, work, future  # An idle lane would otherwise keep the last batch in memory.
        finally:
            await session.close()
