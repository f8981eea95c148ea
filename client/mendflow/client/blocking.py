"""Run coroutines for code without asyncio: on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from mendflow.client.process import refuse_forked_child
from mendflow.errors import MendflowError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator

__all__ = ["LoopThread"]

C = TypeVar("C")
T = TypeVar("T")

#: How long a call may take to end after Ctrl-C or `close`, in seconds.
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
        #: The calls in progress.
        self._calls: set[concurrent.futures.Future[Any]] = set()

    def _leave_to_parent(self) -> None:
        # Kept, because freeing gRPC's objects in the child may crash it.
        self._parents = self._started
        self._forget()

    def run(self, work: Callable[[C], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function of the object, and return its result. Ctrl-C cancels it before this raises.

        Raise `MendflowError` after `close`, also if another thread closes it during the call, and in a process that
        was forked from one that uses gRPC.
        """
        loop, inner = self._start()
        return self._call(work(inner), loop)

    def iterate(self, work: Callable[[C], AsyncGenerator[T, None]]) -> Iterator[T]:
        """Yield the items of an asynchronous generator of the object. Closing the iterator closes the generator."""
        loop, inner = self._start()
        items = work(inner)
        try:
            while True:
                try:
                    item = self._call(_next(items), loop)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            with contextlib.suppress(_Closed, concurrent.futures.CancelledError):  # Then `close` closes the generator.
                _run(_close(items), loop, self._submit)

    def close(self, work: Callable[[C], Coroutine[Any, Any, None]]) -> None:
        """Cancel what other threads run, run ``work`` a last time, and end the thread. May be called again."""
        with self._lock:
            started, self._started, self._closed = self._started, None, True
        if started is not None:
            loop, thread, inner = started
            try:
                _run(_end_all(work(inner)), loop)
            finally:
                _stop(loop, thread, self._calls)

    def _call(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
        """Run a coroutine on the loop. Raise `MendflowError` after `close`, and if `close` cancels it."""
        try:
            return _run(work, loop, self._submit)
        except (_Closed, concurrent.futures.CancelledError):
            if self._closed:
                raise _closed_error() from None
            raise

    def _submit(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> concurrent.futures.Future[T]:
        with self._lock:  # So `close` finds everything that is on the loop.
            if self._closed:
                raise _Closed
            call = asyncio.run_coroutine_threadsafe(work, loop)
            self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def _start(self) -> tuple[asyncio.AbstractEventLoop, C]:
        with self._lock:
            if self._closed:
                raise _closed_error()
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


class _Closed(Exception):
    """Raised instead of a call on the loop of a closed client."""


def _closed_error() -> MendflowError:
    return MendflowError("the client is closed; make a new one")


#: The threads of this process, for its forked children.
_LOOP_THREADS: Final = weakref.WeakSet[LoopThread[Any]]()


def _forget_all() -> None:
    for each in list(_LOOP_THREADS):
        each._leave_to_parent()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


async def _close(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


async def _end_all(last: Coroutine[Any, Any, None]) -> None:
    """Cancel all other tasks, close the asynchronous generators, and run ``last``. Limit the wait for the first two."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=LONGEST_END)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_END):
                await asyncio.get_running_loop().shutdown_asyncgens()
    finally:
        await last


def _run(
    work: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop,
    submit: Callable[
        [Coroutine[Any, Any, T], asyncio.AbstractEventLoop], concurrent.futures.Future[T]
    ] = asyncio.run_coroutine_threadsafe,
) -> T:
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

    running_work = run()
    try:
        return submit(running_work, loop).result()
    except _Closed:
        running_work.close()
        work.close()
        raise
    except KeyboardInterrupt:
        # Ctrl-C can arrive at any line, also before there is a future to cancel.
        interrupted.set()
        with contextlib.suppress(RuntimeError):  # The loop is closed.
            loop.call_soon_threadsafe(cancel)
            # Limit the wait: work that is not on the loop yet never gets there.
            ended.wait(LONGEST_END)
        raise


def _stop(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, calls: Collection[concurrent.futures.Future[Any]] = ()
) -> None:
    """End the thread, and then the calls whose tasks did not end when they were cancelled."""
    with contextlib.suppress(RuntimeError):  # It is closed.
        loop.call_soon_threadsafe(loop.stop)
    thread.join()
    for call in list(calls):
        call.cancel()
    loop.close()
