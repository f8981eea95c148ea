"""The server's event loop: what ends it, and what does not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from mendflow_server.runtime.event_loop import run_on_loop
from mendflow_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(params=["asyncio", "uvloop"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Return settings for each of the loops."""
    return Settings(event_loop=request.param)


def test_result_of_main_is_returned_though_callbacks_exit_and_stop(settings: Settings) -> None:
    async def main() -> list[int]:
        loop, ran = asyncio.get_running_loop(), list[int]()
        for number in range(3):
            loop.call_soon(ran.append, number)
            loop.call_soon(sys.exit)
            loop.call_soon(loop.stop)
        while len(ran) < 3:
            await asyncio.sleep(0)
        return ran

    assert run_on_loop(main(), settings) == [0, 1, 2]


def test_exit_of_main_itself_ends_the_loop(settings: Settings) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        sys.exit(7)

    with pytest.raises(SystemExit) as ended:
        run_on_loop(main(), settings)
    assert ended.value.code == 7


def test_error_of_main_is_raised(settings: Settings) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        raise KeyError("no")

    with pytest.raises(KeyError):
        run_on_loop(main(), settings)


def test_interrupt_before_the_server_handles_it_ends_the_loop(settings: Settings) -> None:
    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_on_loop(main(), settings)
    assert signal.getsignal(signal.SIGINT) is before


def test_tasks_and_generators_that_are_left_end_though_they_exit(settings: Settings) -> None:
    ended: list[str] = []

    async def left() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")
            sys.exit(3)

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    generator = numbers()

    async def main() -> int:
        tasks.append(asyncio.create_task(left()))
        await asyncio.sleep(0)
        async for number in generator:
            return number
        return 0

    tasks: list[asyncio.Task[None]] = []
    assert run_on_loop(main(), settings) == 1
    assert ended == ["task", "generator"]
