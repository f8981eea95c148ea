"""A synchronous façade: the asyncio client on a loop of its own, in a thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, Self

from mendflow.connection.client import Client
from mendflow.connection.handle import WorkflowHandle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["SyncClient"]


class _Blocking:
    """Does what another object does, and waits for it."""

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

    def _wait_for(self, answer: Any) -> Any:
        if inspect.isasyncgen(answer):
            return self._iterate(answer)
        if inspect.iscoroutine(answer):
            answer = asyncio.run_coroutine_threadsafe(answer, self._loop).result()
        if isinstance(answer, list):
            return [self._wrap(each) for each in answer]
        return self._wrap(answer)

    def _wrap(self, answer: Any) -> Any:
        return _Blocking(answer, self._loop) if isinstance(answer, WorkflowHandle) else answer

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield asyncio.run_coroutine_threadsafe(_next(items), self._loop).result()
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(items, "aclose", None)
            if close is not None and self._loop.is_running():
                asyncio.run_coroutine_threadsafe(close(), self._loop).result()


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


class SyncClient(_Blocking):
    """`Client`, for code without asyncio: the same verbs, each of which waits; iterators are plain ones.

    Use it as a context manager.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="mendflow-client", daemon=True)
        self._thread.start()

        async def make() -> Client:
            return Client(*args, **kwargs)

        super().__init__(asyncio.run_coroutine_threadsafe(make(), loop).result(), loop)

    def __enter__(self) -> Self:
        """Answer the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._inner.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
