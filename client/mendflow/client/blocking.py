"""Run coroutines for code without asyncio: on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from mendflow.client.process import refuse_forked_child
from mendflow.errors import MendflowError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

__all__ = ["LoopThread"]

C = TypeVar("C")
T = TypeVar("T")

#: How long a call may take to end after Ctrl-C, in seconds.
LONGEST_END: Final = 1.0


class LoopThread(Generic[C]):
    """A thread with an event loop, and an object that lives on it. Both are made when they are first needed.

    So a process may be forked before that. The child then makes its own.
    """

    def __init__(self, make: Callable[[], C]) -> None:
        self._make = make
        self._closed = False
        self._forget()
        _LOOP_THREADS.add(self)

    def _forget(self) -> None:
        """Begin anew. A forked child has neither the thread nor a usable lock."""
        self._lock = threading.Lock()
        self._started: tuple[asyncio.AbstractEventLoop, threading.Thread, C] | None = None

    def _leave_to_parent(self) -> None:
        # Kept, because freeing gRPC's objects in the child may crash it.
        self._parents = self._started
        self._forget()

    def run(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function of the object, and return its result. Ctrl-C cancels it before this raises.

        Raise `MendflowError` after `close`, and in a process that was forked from one that uses gRPC.
        """
        loop, inner = self._start()
        return _run(work(inner), loop)

    def iterate(self, work: Callable[[C], AsyncGenerator[T, None]]) -> Iterator[T]:
        """Yield the items of an asynchronous generator of the object. Closing the iterator closes the generator."""
        loop, inner = self._start()
        items = work(inner)
        try:
            while True:
                try:
                    item = _run(_next(items), loop)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if loop.is_running():
                _run(items.aclose(), loop)

    def close(self, work: Callable[[C], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` a last time, and end the thread. May be called again."""
        with self._lock:
            started, self._started, self._closed = self._started, None, True
        if started is not None:
            loop, thread, inner = started
            try:
                _run(work(inner), loop)
            finally:
                _stop(loop, thread)

    def _start(self) -> tuple[asyncio.AbstractEventLoop, C]:
        with self._lock:
            if self._closed:
                message = "the client is closed; make a new one"
                raise MendflowError(message)
            if self._started is None:
                refuse_forked_child()
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=loop.run_forever, name="mendflow-client", daemon=True)
                thread.start()

                async def make() -> C:
                    return self._make()

                try:
                    self._started = loop, thread, _run(make(), loop)
                except BaseException:
                    _stop(loop, thread)
                    raise
            return self._started[0], self._started[2]


#: The threads of this process, for its forked children.
_LOOP_THREADS: Final = weakref.WeakSet[LoopThread[Any]]()


def _forget_all() -> None:
    for each in list(_LOOP_THREADS):
        each._leave_to_parent()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


def _run(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Run ``work`` on the loop and wait for its result. Ctrl-C cancels it on the loop before this raises."""
    try:
        refuse_forked_child()  # A forked child has no loop thread, so the wait would never end.
    except MendflowError:
        work.close()
        raise
    interrupted, ended = threading.Event(), threading.Event()
    running: list[asyncio.Task[Any] | None] = []

    async def run() -> T:
        try:
            if interrupted.is_set():
                work.close()
                raise asyncio.CancelledError
            running.append(asyncio.current_task())
            return await work
        finally:
            ended.set()

    def cancel() -> None:
        for task in running:
            if task is not None:
                task.cancel()

    try:
        return asyncio.run_coroutine_threadsafe(run(), loop).result()
    except KeyboardInterrupt:
        # Ctrl-C can arrive at any line, also before there is a future to cancel.
        interrupted.set()
        loop.call_soon_threadsafe(cancel)
        # Limit the wait: work that is not on the loop yet never gets there.
        ended.wait(LONGEST_END)
        raise


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    with contextlib.suppress(RuntimeError):  # It is closed.
        loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
