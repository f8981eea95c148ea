"""Threads that own a connection each, so that SQLite never runs on the event loop."""

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
    """What lives on a thread and is used there alone."""

    def close(self) -> None:
        """Release what it holds."""


_OwnerT = TypeVar("_OwnerT", bound=Owner)
_T = TypeVar("_T")


class OwnerThreads(Generic[_OwnerT]):
    """A few threads that take work from one queue; each makes an owner of its own.

    The threads are daemons: an exit of the process never waits for a disk.
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
        """Hand work over and answer a future. Cancelling that future does not stop the work."""
        if self._stopped is not None:
            message = "the store is closed"
            raise StoreUnavailable(message)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def run(owner: _OwnerT) -> None:
            try:
                result = work(owner)
            except BaseException as error:  # noqa: BLE001  It is the caller's, on the other side.
                _tell(loop, _fail, future, error)
            else:
                _tell(loop, _succeed, future, result)

        self._queue.put(run)
        return future

    async def stop(self) -> None:
        """Let the threads finish what is queued, and end. Safe to call twice."""
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
                del work  # Or an idle thread would keep the last batch in memory.
        finally:
            try:
                owner.close()
            finally:
                _tell(self._loop, self._one_ended)

    def _one_ended(self) -> None:
        self._running -= 1
        if self._running == 0 and self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *values: object) -> None:
    # A closed loop has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *values)


def _succeed(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[_T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
