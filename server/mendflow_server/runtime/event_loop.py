"""Choose the event loop, and keep it running whatever user code does to it.

With uvloop each call takes the server about 10% less time (docs/performance.md).
uvloop is installed with the server where it is available; asyncio's own loop
works too.

Both loops stop when a task or a callback raises SystemExit or KeyboardInterrupt,
and when any code calls `loop.stop()`. The task that raised has its exception
then, and nothing else has changed. So the server logs what happened and runs the
loop again until its own main task is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from mendflow_server.settings import Settings

__all__ = ["LoopNotInstalled", "run_on_loop"]

log = structlog.get_logger("mendflow.loop")

T = TypeVar("T")

#: How long the tasks that are left at the end, and then the generators, may take to end, in seconds.
CLOSE_SECONDS = 1.0


class LoopNotInstalled(Exception):
    """The event loop of the settings is not installed. The message says what to do."""


def run_on_loop(main: Coroutine[Any, Any, T], settings: Settings) -> T:
    """Run ``main`` on the loop that the settings name, and return its result. Raise `LoopNotInstalled`."""
    try:
        factory = _factory(settings.event_loop)
    except LoopNotInstalled:
        main.close()
        raise
    loop = factory()
    asyncio.set_event_loop(loop)
    # The loop would wait without limit for the threads of its own executor.
    executor = ThreadPoolExecutor(thread_name_prefix="mendflow-executor")
    loop.set_default_executor(executor)
    try:
        return _run(loop, main)
    finally:
        try:
            _close(loop, executor)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run the loop until ``main`` is done, even if something else stops the loop."""
    task = loop.create_task(main)
    task.add_done_callback(lambda _: loop.stop())
    with _interrupts(loop, task) as interrupted:
        while not task.done():
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                if task.done():
                    break  # The main task raised it, and it is raised again below.
                if isinstance(error, KeyboardInterrupt) and _interruptible():
                    raise
                log.exception("exit_from_loop_ignored", error=type(error).__name__)
            else:
                if not task.done():
                    log.error("stop_of_loop_ignored")
    if task.cancelled() and interrupted:
        raise KeyboardInterrupt
    return task.result()


def _interruptible() -> bool:
    """Return whether Python itself raises KeyboardInterrupt on SIGINT, which must then end the process."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextlib.contextmanager
def _interrupts(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> Iterator[list[int]]:
    """Cancel the main task on SIGINT, until the server installs its own handler. Yield the signals received."""
    interrupted: list[int] = []
    if threading.current_thread() is not threading.main_thread() or not _interruptible():
        yield interrupted
        return

    def cancel(number: int, _frame: object) -> None:
        interrupted.append(number)
        loop.call_soon_threadsafe(task.cancel)  # This also wakes the loop.

    signal.signal(signal.SIGINT, cancel)
    try:
        yield interrupted
    finally:
        if signal.getsignal(signal.SIGINT) is cancel:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _close(loop: asyncio.AbstractEventLoop, executor: ThreadPoolExecutor) -> None:
    """Cancel the remaining tasks, and shut down the generators and the executor. None of them may take long."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        _run(loop, _ended(left))
    _run(loop, _generators_closed(loop))
    executor.shutdown(wait=False, cancel_futures=True)


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    ended, running = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
    for task in ended:
        if not task.cancelled() and task.exception() is not None:
            log.error("task_failed_at_end", exc_info=task.exception())
    for task in running:
        log.warning("task_left_at_end", task=repr(task.get_coro()), seconds=CLOSE_SECONDS)


async def _generators_closed(loop: asyncio.AbstractEventLoop) -> None:
    closing = loop.create_task(loop.shutdown_asyncgens())
    await asyncio.wait((closing,), timeout=CLOSE_SECONDS)
    if not closing.done():
        log.warning("generators_left_at_end", seconds=CLOSE_SECONDS)


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    if find_spec("uvloop") is None:
        if name == "auto":
            return asyncio.new_event_loop
        message = "MENDFLOW_EVENT_LOOP=uvloop, but uvloop is not installed; pip install uvloop, or use auto or asyncio"
        raise LoopNotInstalled(message)
    import uvloop  # noqa: PLC0415 - it is not available on every system

    return uvloop.new_event_loop
