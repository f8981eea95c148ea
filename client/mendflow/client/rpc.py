"""Calling: deadlines, typed errors, and window with a server that is away."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from mendflow import errors
from mendflow.client.channel import open_channel, trace_metadata
from mendflow.client.error_mapping import error_of_rpc
from mendflow.client.process import refuse_forked_child

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Caller"]

R = TypeVar("R")

#: The pause before a call is made again, in seconds: the first and the longest, before jitter.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 0.5


class RetryWindow:
    """How long to go on asking a server that is away. None: for ever."""

    def __init__(self, seconds: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._limit: float | None = None
        self._pause = FIRST_PAUSE

    def succeeded(self) -> None:
        """It answered: the next absence is a new one."""
        self._limit = None
        self._pause = FIRST_PAUSE

    async def wait_or_raise(self, error: errors.RequestError) -> None:
        """Wait before asking again, or raise the error when window is at an end."""
        now = self._loop.time()
        if self._limit is None and self._seconds is not None:
            self._limit = now + self._seconds
        if self._limit is not None and now >= self._limit:
            raise error
        await asyncio.sleep(max(self._pause * random.uniform(0.5, 1.0), min(error.retry_after or 0.0, 1.0)))  # noqa: S311 - jitter
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


class Caller:
    """One channel, and the rules for calls on it."""

    def __init__(self, target: str, *, timeout: float, retry_for: float | None) -> None:
        self.target = target
        self.timeout = timeout
        self.retry_for = retry_for
        self.channel = open_channel(target)

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        await self.channel.close()

    async def call(self, method: Callable[..., Any], request: Any, *, timeout: float | None = None) -> Any:
        """Make one call. Raises a `RequestError`."""
        refuse_forked_child()
        try:
            return await method(
                request, timeout=self.timeout if timeout is None else timeout, metadata=trace_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_rpc(error, self.target) from None

    async def call_with_retry(self, method: Callable[..., Any], request: Any, *, timeout: float | None = None) -> Any:
        """Make an idempotent call, again and again while the server is away, for ``retry_for`` seconds."""
        window = RetryWindow(self.retry_for)
        while True:
            try:
                return await self.call(method, request, timeout=timeout)
            except errors.ServerUnavailable as error:
                await window.wait_or_raise(error)

    async def call_and_wait(self, method: Callable[..., Any], request: Any, *, timeout: float) -> Any:
        """Make a call that waits for an event, as `call_with_retry` does, and retry also after its deadline."""
        window = RetryWindow(self.retry_for)
        while True:
            try:
                return await self.call(method, request, timeout=timeout)
            except (errors.ServerUnavailable, errors.DeadlineExceeded) as error:
                await window.wait_or_raise(error)

    def retry_window(self, retry_for: float | None) -> RetryWindow:
        """Answer a new window of so many seconds."""
        return RetryWindow(retry_for)
