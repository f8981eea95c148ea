"""The workflows of the benchmarks: one with three trivial steps, one that takes signals, and two that wait."""

from __future__ import annotations

import asyncio

from mendflow import attempt, sleep, step, wait_signal, workflow


@step
async def add_one(number: int) -> int:
    """Add one."""
    return number + 1


@workflow
async def three_steps(number: int) -> int:
    """Add three, with one step at a time."""
    number = await add_one(number)
    number = await add_one(number)
    return await add_one(number)


@workflow
async def signalled(rounds: int) -> None:
    """Take ``rounds`` signals."""
    for _ in range(rounds):
        await wait_signal("go")


@step
async def pause() -> int:
    """Sleep for 60 s in the first attempt."""
    if attempt().number == 1:
        await asyncio.sleep(60)
    return 1


@workflow
async def takes_long() -> int:
    """Run a step that takes 60 s in its first attempt."""
    return await pause()


@workflow
async def sleeps(seconds: float) -> int:
    """Sleep, then add one."""
    await sleep(seconds)
    return await add_one(1)
