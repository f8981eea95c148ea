"""What is measured: three trivial steps; and for watchers, a workflow that is told things."""

from __future__ import annotations

from mendflow import step, wait_signal, workflow


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
