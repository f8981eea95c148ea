"""The workflows of the benchmarks: three trivial steps on values of several types, one with signals, two that wait."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from pydantic import BaseModel

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


@step
async def next_dict(order: dict[str, Any]) -> dict[str, Any]:
    """Return the order as its next revision."""
    return {**order, "revision": order["revision"] + 1}


@workflow
async def three_steps_of_a_dict(order: dict[str, Any]) -> dict[str, Any]:
    """Revise an order three times, as a plain dict."""
    for _ in range(3):
        order = await next_dict(order)
    return order


@dataclasses.dataclass
class Order:
    """A small order."""

    id: str
    customer: str
    total: float
    paid: bool
    revision: int
    tags: list[str]


@step
async def next_dataclass(order: Order) -> Order:
    """Return the order as its next revision."""
    return dataclasses.replace(order, revision=order.revision + 1)


@workflow
async def three_steps_of_a_dataclass(order: Order) -> Order:
    """Revise an order three times, as a dataclass."""
    for _ in range(3):
        order = await next_dataclass(order)
    return order


class OrderModel(BaseModel):
    """The same order."""

    id: str
    customer: str
    total: float
    paid: bool
    revision: int
    tags: list[str]


@step
async def next_model(order: OrderModel) -> OrderModel:
    """Return the order as its next revision."""
    return order.model_copy(update={"revision": order.revision + 1})


@workflow
async def three_steps_of_a_model(order: OrderModel) -> OrderModel:
    """Revise an order three times, as a pydantic model."""
    for _ in range(3):
        order = await next_model(order)
    return order


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
