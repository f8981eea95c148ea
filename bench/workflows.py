"""What is measured: three trivial steps."""

from __future__ import annotations

from mendflow import step, workflow


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
