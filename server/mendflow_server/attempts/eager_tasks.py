"""Eager tasks: a coroutine starts at once, and gets a task only if it suspends.

The costs of a task are its creation and the wait for its turn of the loop. A
step that ends without suspending needs neither. But its code may ask which
task it runs in (`asyncio.timeout` does), and must continue in the same one. So
it starts in the name of a spare task that is parked, by the calls that asyncio
documents for task implementations ("Extending"). If it suspends, that task
continues it, and another one is parked. While none is parked, a coroutine
gets a task of its own in the usual way.

While a coroutine has the loop, a mark says which one (`CrashMarker`).
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

    from mendflow_server.attempts.model import Mark

_T = TypeVar("_T")


class EagerTasks:
    """Starts coroutines on an event loop. ``mark`` says which coroutine has the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, mark: Mark) -> None:
        self._loop = loop
        self._mark = mark
        self._spare = _SpareTask(loop)
        self._closed = False

    def begin(
        self, coroutine: Coroutine[Any, Any, _T], context: contextvars.Context, on_record: tuple[int, int]
    ) -> asyncio.Task[Any] | _T:
        """Run a coroutine until it ends or suspends; return what it returned, or the task that continues it.

        It must raise nothing, and return no task. The mark holds ``on_record`` while the coroutine has the loop.
        """
        mark = self._mark
        spare = self._spare
        if not spare.parked or self._closed or asyncio.current_task(self._loop) is not None:
            return self._loop.create_task(_Marked(coroutine, mark, on_record), context=context)
        asyncio.tasks._enter_task(self._loop, spare.task)  # noqa: SLF001 - documented, see above
        key, mark[1] = on_record
        mark[0] = key
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration as stop:
            result: _T = stop.value
            if spare.task.cancelling():
                self._spare = _SpareTask(self._loop)
            return result
        finally:
            mark[0] = 0
            asyncio.tasks._leave_task(self._loop, spare.task)  # noqa: SLF001
        self._spare = _SpareTask(self._loop)
        spare.carry(_Marked(coroutine, mark, on_record), context, waits_for)
        return spare.task

    def close(self) -> None:
        """Cancel the spare task."""
        self._closed = True
        self._spare.task.cancel()


class _Marked(Coroutine[Any, Any, _T]):
    """A coroutine that is marked whenever it has the loop."""

    __slots__ = ("_coroutine", "_key", "_mark", "_sequence")

    def __init__(self, coroutine: Coroutine[Any, Any, _T], mark: Mark, on_record: tuple[int, int]) -> None:
        self._coroutine = coroutine
        self._mark = mark
        self._key, self._sequence = on_record

    def send(self, value: Any, /) -> Any:
        """Resume the coroutine with a value."""
        self._mark[1] = self._sequence
        self._mark[0] = self._key
        try:
            return self._coroutine.send(value)
        finally:
            self._mark[0] = 0

    def throw(self, *error: Any) -> Any:
        """Resume the coroutine with an error."""
        self._mark[1] = self._sequence
        self._mark[0] = self._key
        try:
            return self._coroutine.throw(*error)
        finally:
            self._mark[0] = 0

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, _T]:
        """Return the coroutine's own iterator."""
        return self._coroutine.__await__()


class _SpareTask:
    """A task that waits for a coroutine to continue."""

    __slots__ = ("_carried", "_go", "parked", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: It waits; before that, a cancel would end it instead of what it carries.
        self.parked = False
        self._go: asyncio.Future[None] = loop.create_future()
        self._carried: tuple[Coroutine[Any, Any, Any], contextvars.Context, Any] | None = None
        self.task: asyncio.Task[Any] = loop.create_task(self._wait(), context=contextvars.Context())

    def carry(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context, waits_for: Any) -> None:
        """Continue a coroutine that waits for this future, or only for its next turn (None)."""
        self._carried = coroutine, context, waits_for
        if not self._go.done():
            self._go.set_result(None)

    async def _wait(self) -> Any:
        self.parked = True
        cancelled: BaseException | None = None
        try:
            await self._go
        except asyncio.CancelledError as error:
            if self._carried is None:
                raise
            cancelled = error
        finally:
            self.parked = False
        if self._carried is None:
            return None
        coroutine, context, waits_for = self._carried
        self._carried = None
        # What is no future is refused by the task, in the code that yielded it.
        if cancelled is not None and asyncio.isfuture(waits_for) and waits_for.cancel():
            cancelled = None  # As a task does: it cancels what it waits for, and that resumes it.
        return await _rest(coroutine, context, waits_for, cancelled)


@types.coroutine
def _rest(
    coroutine: Coroutine[Any, Any, _T], context: contextvars.Context, waits_for: Any, error: BaseException | None
) -> Generator[Any, Any, _T]:
    """Run a coroutine to its end in its own context. The task that awaits this waits for what the coroutine awaits."""
    try:
        while True:
            if error is None:
                try:
                    yield waits_for
                except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine
                    error = thrown
            thrown_in, error = error, None
            if thrown_in is None:
                waits_for = context.run(coroutine.send, None)
            else:
                waits_for = context.run(coroutine.throw, thrown_in)
    except StopIteration as stop:
        result: _T = stop.value
        return result
