"""What is measured: three trivial steps; and for watchers, a workflow that is told things."""

from __future__ import annotations

import asyncio

from mendflow import attempt, sleep, step, wait_signal, workflow


@step
async def add_one(number: int) -> int:
    """Add one."""
    return number + 1


@workflow
async def three_steps(number: int) -> int:
    """Add three, a step at a time."""
    number = await add_one(number)
    number = await add_one(number)
    return await add_one(number)


@workflow
async def told(rounds: int) -> None:
    """Take so many signals."""
    for _ in range(rounds):
        await wait_signal("go")


@step
async def pause() -> int:
    """Take a while, the first time."""
    if attempt().number == 1:
        await asyncio.sleep(60)
    return 1


@workflow
async def takes_long() -> int:
    """Take a step that takes a while."""
    return await pause()


@workflow
async def sleeps(seconds: float) -> int:
    """Sleep, then add one."""
    await sleep(seconds)
    return await add_one(1)
