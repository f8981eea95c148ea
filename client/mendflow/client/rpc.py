"""Calls with deadlines, typed errors, and retries while the server is unavailable."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from mendflow import errors
from mendflow.client.channel import open_channel
from mendflow.client.error_mapping import error_of_rpc
from mendflow.client.process import refuse_forked_child
from mendflow.client.propagation import trace_metadata

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Caller"]

R = TypeVar("R")

#: The first and the longest pause before a retry, in seconds, before jitter.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 0.5


class RetryWindow:
    """The time in which calls to an unavailable server are retried, in seconds. None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._limit: float | None = None
        self._pause = FIRST_PAUSE

    def succeeded(self) -> None:
        """Start a new window, because the server answered."""
        self._limit = None
        self._pause = FIRST_PAUSE

    async def wait_or_raise(self, error: errors.RequestError) -> None:
        """Wait before a retry, or raise ``error`` if the window has passed."""
        now = self._loop.time()
        if self._limit is None and self._seconds is not None:
            self._limit = now + self._seconds
        if self._limit is not None and now >= self._limit:
            raise error
        await asyncio.sleep(max(self._pause * random.uniform(0.5, 1.0), min(error.retry_after or 0.0, 1.0)))  # noqa: S311 - jitter
        self._pause = min(self._pause * 2, LONGEST_PAUSE)


class Caller:
    """One channel, and the deadlines and retries of its calls."""

    def __init__(self, target: str, *, timeout: float, retry_for: float | None) -> None:
        self.target = target
        self.timeout = timeout
        self.retry_for = retry_for
        self.channel = open_channel(target)

    async def close(self) -> None:
        """Close the channel and cancel its open calls."""
        await self.channel.close()

    async def call(self, method: Callable[..., Any], request: Any, *, timeout: float | None = None) -> Any:
        """Make one call. Raise a subclass of `RequestError` if it fails."""
        refuse_forked_child()
        try:
            return await method(
                request, timeout=self.timeout if timeout is None else timeout, metadata=trace_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_rpc(error, self.target) from None

    async def call_with_retry(self, method: Callable[..., Any], request: Any, *, timeout: float | None = None) -> Any:
        """Make an idempotent call, and retry it for ``retry_for`` seconds while the server is unavailable.

        A server that does not answer within ``timeout`` seconds is unavailable too.
        """
        window = RetryWindow(self.retry_for)
        while True:
            try:
                return await self.call_available(method, request, timeout=timeout)
            except errors.ServerUnavailable as error:
                unavailable = error
            await window.wait_or_raise(unavailable)

    async def call_available(self, method: Callable[..., Any], request: Any, *, timeout: float | None = None) -> Any:
        """Make one call. Raise `ServerUnavailable` also if the server does not answer within ``timeout`` seconds."""
        seconds = self.timeout if timeout is None else timeout
        try:
            return await self.call(method, request, timeout=seconds)
        except errors.DeadlineExceeded as error:
            message = f"the server at {self.target} has not answered within {seconds:g} s; the call may take effect"
            raise errors.ServerUnavailable(
                message, code=error.code, reason=error.reason, metadata=error.metadata
            ) from None

    def retry_window(self, retry_for: float | None) -> RetryWindow:
        """Return a new window of ``retry_for`` seconds."""
        return RetryWindow(retry_for)
