"""Workflows whose code keeps a process from its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mendflow import RetryPolicy, StepFailed, step, wait_signal, workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Longer than any test waits, in seconds.
LONG = 3_600.0


@step(timeout=None)
async def swallows() -> None:
    """Ignore every cancel."""
    while True:
        with contextlib.suppress(BaseException):
            await asyncio.sleep(LONG)


@step(timeout=None)
async def in_executor() -> None:
    """Wait for a thread of the loop's executor."""
    await asyncio.to_thread(time.sleep, LONG)


@step(timeout=None)
async def in_thread() -> None:
    """Leave a thread that Python waits for at its end."""
    threading.Thread(target=time.sleep, args=(LONG,), name="left by a step").start()
    await asyncio.sleep(LONG)


async def _never_closed() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        while True:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(LONG)


@step(timeout=None)
async def in_generator() -> None:
    """Leave a generator that does not close."""
    numbers = _never_closed()
    await anext(numbers)
    await asyncio.sleep(LONG)


@step(timeout=None)
async def blocks_the_loop() -> None:
    """Never yield to the loop."""
    while True:
        pass


@step(timeout=None)
def on_thread() -> None:
    """Hang on a thread."""
    time.sleep(LONG)


STEPS = {each.name: each for each in (swallows, in_executor, in_thread, in_generator, blocks_the_loop, on_thread)}


@workflow
async def hangs(name: str) -> None:
    """Run the step of this name; without a name, block the loop in the workflow's own code."""
    while not name:
        pass
    await STEPS[name]()


@step
async def nothing() -> None:
    """Do nothing."""


@workflow
async def ends() -> None:
    """End."""
    await nothing()


CRASHES = Path("crash")


@step(timeout=0.2, retry=RetryPolicy(max_attempts=1))
def outlives_its_timeout() -> None:
    """Crash the server once its attempt is closed and the test wants it."""
    while not CRASHES.exists():
        time.sleep(0.01)
    CRASHES.unlink()
    os._exit(9)


@workflow
async def leaves_a_thread() -> None:
    """End while the thread of the step still runs."""
    with contextlib.suppress(StepFailed):
        await outlives_its_timeout()


@workflow
async def leaves_a_thread_and_waits() -> None:
    """Stay open while the thread of the step still runs."""
    await leaves_a_thread.function()
    await wait_signal("go")


@step(timeout=None)
async def waits_long() -> None:
    """Wait, and crash nothing."""
    await asyncio.sleep(LONG)


@workflow
async def waits_beside() -> None:
    """Have one attempt in flight."""
    await waits_long()
