"""Threads that each own a connection, so that SQLite never runs on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from mendflow_server.store.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable


class Owner(Protocol):
    """An object that one thread creates and uses."""

    def close(self) -> None:
        """Release its resources."""


_OwnerT = TypeVar("_OwnerT", bound=Owner)
_T = TypeVar("_T")


class OwnerThreads(Generic[_OwnerT]):
    """A few threads that take work from one queue. Each creates its own owner.

    The threads are daemons, so the process never waits for a disk when it exits.
    """

    def __init__(self, name: str, make: Callable[[], _OwnerT], *, count: int = 1) -> None:
        self._make = make
        self._count = count
        self._queue: queue.SimpleQueue[Callable[[_OwnerT], None] | None] = queue.SimpleQueue()
        self._stopped: asyncio.Future[None] | None = None
        self._running = count
        self._threads = [
            threading.Thread(target=self._serve, name=f"mendflow-{name}-{number}", daemon=True)
            for number in range(count)
        ]
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[_OwnerT], _T]) -> asyncio.Future[_T]:
        """Queue work and return a future for its result. Cancelling the future does not stop the work."""
        if self._stopped is not None:
            message = "store is closed"
            raise StoreUnavailable(message)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def run(owner: _OwnerT) -> None:
            try:
                result = work(owner)
            except BaseException as error:  # noqa: BLE001  the caller gets it from the future
                _call_on_loop(loop, _fail, future, error)
            else:
                _call_on_loop(loop, _succeed, future, result)

        self._queue.put(run)
        return future

    async def stop(self) -> None:
        """Finish the queued work and stop the threads. May be called twice."""
        if self._stopped is None:
            self._stopped = self._loop.create_future()
            for _ in self._threads:
                self._queue.put(None)
        await asyncio.shield(self._stopped)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        owner = self._make()
        try:
            while (work := self._queue.get()) is not None:
                work(owner)
                del work  # An idle thread would otherwise keep the last batch in memory.
        finally:
            try:
                owner.close()
            finally:
                _call_on_loop(self._loop, self._one_ended)

    def _one_ended(self) -> None:
        self._running -= 1
        if self._running == 0 and self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)


def _call_on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *values: object) -> None:
    # On a closed loop no task waits for the result.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *values)


def _succeed(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[_T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
