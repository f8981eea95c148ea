"""Coroutines that begin at once: no call of asyncio distinguishes them from coroutines in their own tasks."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from mendflow_server.attempts.eager_tasks import EagerTasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

#: The mark of what has the loop, and what it says then.
MARK = [0, 0]
ON_RECORD = (7, 2)
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name")


@pytest.fixture
async def carriers() -> AsyncIterator[EagerTasks]:
    made = EagerTasks(asyncio.get_running_loop(), MARK)
    await asyncio.sleep(0)  # The spare task is parked.
    yield made
    made.close()
    await asyncio.sleep(0)


def outside(carriers: EagerTasks, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    """Begin the coroutine in a callback of the loop, where no task is current, and return the result of `begin`."""
    loop = asyncio.get_running_loop()
    begun = loop.create_future()
    loop.call_soon(lambda: begun.set_result(carriers.begin(coroutine, contextvars.Context(), ON_RECORD)))
    return begun


async def test_a_coroutine_that_does_not_suspend_ends_at_once_without_a_task(carriers: EagerTasks) -> None:
    async def adds() -> int:
        async with asyncio.timeout(5):  # noqa: ASYNC100 - what does not suspend is what this is about
            return 2 + 3

    before = asyncio.all_tasks()
    for _ in range(3):
        assert await outside(carriers, adds()) == 5
    assert asyncio.all_tasks() == before


async def test_a_coroutine_that_suspends_continues_in_the_task_in_which_it_began(carriers: EagerTasks) -> None:
    async def asks() -> list[Any]:
        NAME.set("mine")
        seen = [asyncio.current_task()]
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        await asyncio.get_running_loop().run_in_executor(None, int)
        return [*seen, asyncio.current_task(), NAME.get()]

    task = await outside(carriers, asks())
    assert await task == [task, task, task, "mine"]
    assert NAME.get("unset") == "unset"


async def test_a_timeout_ends_a_wait(carriers: EagerTasks) -> None:
    async def late() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "never"

    assert await (await outside(carriers, late())) == "late"


async def test_a_cancel_before_the_next_turn_reaches_the_awaited_future(carriers: EagerTasks) -> None:
    children: list[asyncio.Task[None]] = []

    async def forever() -> None:
        await asyncio.Event().wait()

    async def gathers() -> str:
        children.extend(asyncio.ensure_future(forever()) for _ in range(2))
        try:
            await asyncio.gather(*children)
        except asyncio.CancelledError:
            return "cancelled"
        return "ended"

    loop = asyncio.get_running_loop()
    begun = loop.create_future()

    def begin_and_cancel() -> None:
        task: Any = carriers.begin(gathers(), contextvars.Context(), ON_RECORD)
        task.cancel()
        begun.set_result(task)

    loop.call_soon(begin_and_cancel)
    assert await (await begun) == "cancelled"
    assert [child.cancelled() for child in children] == [True, True]


@pytest.mark.parametrize("suspends", [False, True])
async def test_a_coroutine_that_cancels_itself_does_not_affect_later_ones(carriers: EagerTasks, suspends: bool) -> None:  # noqa: FBT001
    async def cancels_itself() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            if suspends:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled"
        return "ended"

    async def waits() -> str:
        await asyncio.sleep(0)
        return "whole"

    first = await outside(carriers, cancels_itself())
    assert (await first if suspends else first) == ("cancelled" if suspends else "ended")
    for _ in range(3):
        await asyncio.sleep(0)
        assert await (await outside(carriers, waits())) == "whole"


async def test_a_cancel_ends_a_coroutine_that_yielded_no_future(carriers: EagerTasks) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            yield 5

    async def yields() -> str:
        try:
            await Awaitable()
        except (RuntimeError, asyncio.CancelledError):
            return "ended"
        return "never"

    loop = asyncio.get_running_loop()
    begun = loop.create_future()

    def begin_and_cancel() -> None:
        task: Any = carriers.begin(yields(), contextvars.Context(), ON_RECORD)
        task.cancel()
        begun.set_result(task)

    loop.call_soon(begin_and_cancel)
    assert await (await begun) == "ended"


async def test_many_coroutines_that_suspend_at_once_all_continue(carriers: EagerTasks) -> None:
    async def waits(number: int) -> int:
        await asyncio.sleep(0)
        return number

    tasks = await asyncio.gather(*(outside(carriers, waits(number)) for number in range(20)))
    assert await asyncio.gather(*tasks) == list(range(20))


async def test_a_coroutine_that_begins_inside_a_task_gets_its_own_task(carriers: EagerTasks) -> None:
    async def asks() -> Any:
        return asyncio.current_task()

    task: Any = carriers.begin(asks(), contextvars.Context(), ON_RECORD)
    assert await task is task
    assert task is not asyncio.current_task()


async def test_a_mark_says_which_coroutine_has_the_loop(carriers: EagerTasks) -> None:
    seen: list[tuple[int, str, list[int]]] = []
    loop = asyncio.get_running_loop()

    async def asks(key: int) -> None:
        seen.append((key, "begins", [*MARK]))
        await asyncio.sleep(0)
        seen.append((key, "continues", [*MARK]))
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            seen.append((key, "is cancelled", [*MARK]))

    def begin(key: int, future: Any) -> None:
        future.set_result(carriers.begin(asks(key), contextvars.Context(), (key, 10 * key)))

    # While the first one begins, no second task is parked.
    begun: list[Any] = [loop.create_future(), loop.create_future()]
    for key, future in zip((7, 8), begun, strict=True):
        loop.call_soon(begin, key, future)

    tasks = await asyncio.gather(*begun)
    while len(seen) < 4:
        assert MARK[0] == 0, "this test has the loop"
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)
    assert sorted(seen) == [
        (key, what, [key, 10 * key]) for key in (7, 8) for what in ("begins", "continues", "is cancelled")
    ]
    assert MARK[0] == 0
