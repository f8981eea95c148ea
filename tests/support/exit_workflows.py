"""Workflows whose steps try to end the process in every way short of a crash."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from mendflow import RetryPolicy, attempt, gather, step, workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: Long enough for every callback of a step to have run, in seconds.
SOON = 0.05


class Exits:
    """An object that raises when it is freed."""

    def __del__(self) -> None:
        sys.exit(0)


def leave(*_: object) -> NoReturn:
    """Raise SystemExit."""
    sys.exit(0)


def interrupt(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


async def leaves() -> None:
    """Raise SystemExit after a turn of the loop."""
    await asyncio.sleep(0)
    sys.exit(0)


async def interrupts() -> None:
    """Raise KeyboardInterrupt after a turn of the loop."""
    await asyncio.sleep(0)
    raise KeyboardInterrupt


async def exits_at_its_end() -> AsyncIterator[int]:
    """Raise SystemExit when it is finalised."""
    try:
        yield 1
    finally:
        sys.exit(0)


async def in_awaited_task() -> None:
    await asyncio.create_task(leaves())


async def interrupt_in_awaited_task() -> None:
    await asyncio.create_task(interrupts())


async def in_forgotten_task() -> None:
    task = asyncio.create_task(leaves())
    await asyncio.sleep(SOON)
    assert task.done()


async def in_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leaves())
        group.create_task(asyncio.sleep(60))


async def in_gather() -> None:
    await asyncio.gather(leaves(), asyncio.sleep(60))


async def in_wait_for() -> None:
    await asyncio.wait_for(leaves(), 60)


async def in_call_soon() -> None:
    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(SOON)


async def in_call_later() -> None:
    asyncio.get_running_loop().call_later(0.001, interrupt)
    await asyncio.sleep(SOON)


async def in_done_callback() -> None:
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(leave)
    future.set_result(None)
    await asyncio.sleep(SOON)


async def in_call_soon_threadsafe() -> None:
    loop = asyncio.get_running_loop()
    threading.Thread(target=loop.call_soon_threadsafe, args=(leave,)).start()
    await asyncio.sleep(SOON)


async def in_reader() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.settimeout(0)

    def read() -> None:
        loop.remove_reader(ours)
        leave()

    loop.add_reader(ours, read)
    theirs.send(b"x")
    await asyncio.sleep(SOON)
    ours.close()
    theirs.close()


async def in_to_thread() -> None:
    await asyncio.to_thread(leave)


async def in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, interrupt)


async def in_thread() -> None:
    thread = threading.Thread(target=interrupt)
    thread.start()
    await asyncio.sleep(SOON)
    thread.join()


async def in_generators_end() -> None:
    async for _ in exits_at_its_end():
        break
    gc.collect()
    await asyncio.sleep(SOON)


async def in_del() -> None:
    Exits()
    await asyncio.sleep(SOON)


async def by_stop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(SOON)


async def by_stop_at_once() -> None:
    asyncio.get_running_loop().stop()


async def by_close() -> None:
    asyncio.get_running_loop().close()


async def by_exit() -> None:
    sys.exit(0)


async def by_exit_after_a_turn() -> None:
    await leaves()


#: Each way, and whether the step fails for it.
WAYS: dict[str, tuple[Callable[[], Awaitable[None]], bool]] = {
    way.__name__: (way, fails)
    for way, fails in (
        (in_awaited_task, True),
        (interrupt_in_awaited_task, True),
        (in_forgotten_task, False),
        (in_task_group, True),
        (in_gather, True),
        (in_wait_for, True),
        (in_call_soon, False),
        (in_call_later, False),
        (in_done_callback, False),
        (in_call_soon_threadsafe, False),
        (in_reader, False),
        (in_to_thread, True),
        (in_executor, True),
        (in_thread, False),
        (in_generators_end, False),
        (in_del, False),
        (by_stop, False),
        (by_stop_at_once, False),
        (by_close, True),
        (by_exit, True),
        (by_exit_after_a_turn, True),
    )
}


@step(retry=RetryPolicy(max_attempts=2, initial_interval=0.001))
async def exits(way: str) -> None:
    """Try to end the process."""
    await WAYS[way][0]()


@step(retry=RetryPolicy(max_attempts=2, initial_interval=0.001))
def exits_on_thread() -> None:
    """Try to end the process from a step's own thread."""
    sys.exit(0)


@step
async def stays() -> int:
    """Run while another step tries to end the process."""
    await asyncio.sleep(SOON * 4)
    return attempt().number


@workflow
async def ends_process(way: str) -> list[str]:
    """Try to end the process beside a step in progress, and return the results of both."""
    call = exits_on_thread() if way == "on_thread" else exits(way)
    ended, number = await gather(call, stays(), return_exceptions=True)
    return [type(ended).__name__, str(number)]
