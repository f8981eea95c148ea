"""The synchronous client, which runs the asyncio client on an event loop in its own thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final, Self

from mendflow.client.client import Client
from mendflow.client.handle import WorkflowHandle
from mendflow.client.process import refuse_forked_child
from mendflow.errors import MendflowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

__all__ = ["SyncClient"]

#: How long a call may take to end after Ctrl-C, in seconds.
LONGEST_END: Final = 1.0


class _Blocking:
    """A proxy that waits for the coroutines of another object."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def __repr__(self) -> str:
        return repr(self._inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def blocking(*args: Any, **kwargs: Any) -> Any:
            return self._wait_for(found(*args, **kwargs))

        return blocking

    def _wait_for(self, result: Any) -> Any:
        if isinstance(result, AsyncGenerator):
            return self._iterate(result)
        if inspect.iscoroutine(result):
            result = _run(result, self._loop)
        if isinstance(result, list):
            return [self._wrap(each) for each in result]
        return self._wrap(result)

    def _wrap(self, result: Any) -> Any:
        return _Blocking(result, self._loop) if isinstance(result, WorkflowHandle) else result

    def _iterate(self, items: AsyncGenerator[Any, None]) -> Generator[Any, None, None]:
        try:
            while True:
                try:
                    item = _run(anext(items), self._loop)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if self._loop.is_running():
                _run(items.aclose(), self._loop)


def _run(work: Awaitable[Any], loop: asyncio.AbstractEventLoop) -> Any:
    """Run ``work`` on the loop and wait for its result. Ctrl-C cancels it on the loop before this raises."""
    try:
        refuse_forked_child()  # A forked child has no loop thread, so the wait would never end.
    except MendflowError:
        if inspect.iscoroutine(work):
            work.close()
        raise
    interrupted, ended = threading.Event(), threading.Event()
    running: list[asyncio.Task[Any] | None] = []

    async def run() -> Any:
        try:
            if interrupted.is_set():
                if inspect.iscoroutine(work):
                    work.close()
                return None
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


class SyncClient(_Blocking):
    """`Client` for code without asyncio. It has the same methods, which block, and plain iterators.

    Use it as a context manager.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="mendflow-client", daemon=True)
        self._thread.start()

        async def make() -> Client:
            return Client(*args, **kwargs)

        try:
            client = _run(make(), loop)
        except BaseException:
            self._stop(loop)
            raise
        super().__init__(client, loop)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection and end the thread."""
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._loop.is_running():
            _run(self._inner.close(), self._loop)
            self._stop(self._loop)

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
