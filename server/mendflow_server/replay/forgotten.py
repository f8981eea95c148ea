"""Detect tasks and unawaited coroutines in workflow code, which would otherwise go unnoticed.

A runner records the calls that its code makes. Two things it cannot see itself.
A task would run beside the workflow and could not be replayed, so a hook raises
where the code creates one. A coroutine may be dropped without an await; Python
warns when it frees the coroutine, and a hook reports it to the runner.

The hooks are global to the loop and the process. So each server passes on what
does not concern it, and servers may stop in any order.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from typing import TYPE_CHECKING, Any, Final

from mendflow.authoring.calls import Call
from mendflow.authoring.context import RUN
from mendflow.errors import NotDurable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["notice_forgotten"]

#: Python calls this function when it frees a coroutine that was never awaited. Its private name is old and stable.
_WARN: Final = "_warn_unawaited_coroutine"


@contextlib.contextmanager
def notice_forgotten(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Raise when workflow code creates a task on this loop, and report unawaited coroutines to their runners."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_hooked(_TaskFactory, loop.get_task_factory, loop.set_task_factory))
        if hasattr(warnings, _WARN):
            collecting = _Collecting()
            gc.callbacks.append(collecting)
            stack.callback(gc.callbacks.remove, collecting)
            stack.enter_context(
                _hooked(
                    lambda before: _Warning(before, collecting),
                    lambda: getattr(warnings, _WARN),
                    lambda function: setattr(warnings, _WARN, function),
                )
            )
        yield


class _Hook:
    """A function that replaces another one as long as it is active."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.active = True


@contextlib.contextmanager
def _hooked(make: Callable[[Any], _Hook], get: Callable[[], Any], put: Callable[[Any], None]) -> Iterator[None]:
    hook = make(get())
    put(hook)
    try:
        yield
    finally:
        hook.active = False
        found = get()
        # A hook that was installed later stays, and calls through this one.
        while isinstance(found, _Hook) and not found.active:
            found = found.before
        put(found)


class _TaskFactory(_Hook):
    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        run = RUN.get()
        if self.active and run is not None and run.driving:
            raise _refusal(coroutine)
        if self.before is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return self.before(loop, coroutine, **options)


class _Collecting:
    """Whether the garbage collector is running. What it frees may belong to other code."""

    def __init__(self) -> None:
        self.now = False

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        self.now = phase == "start"


class _Warning(_Hook):
    def __init__(self, before: Any, collecting: _Collecting) -> None:
        super().__init__(before)
        self._collecting = collecting

    def __call__(self, coroutine: Any) -> None:
        run = RUN.get()
        if self.active and run is not None and run.driving and not self._collecting.now:
            run.forgotten(f"coroutine {coroutine.__qualname__}()")
        else:
            self.before(coroutine)


def _refusal(coroutine: Any) -> NotDurable:
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    wrapped = None if frame is None else frame.f_locals.get("awaitable")
    call = wrapped if isinstance(wrapped, Call) else coroutine
    what = str(call) if isinstance(call, Call) else f"{getattr(coroutine, '__qualname__', coroutine)}()"
    if asyncio.iscoroutine(coroutine):
        coroutine.close()
    msg = (
        f"{what} was wrapped in a task, and a task cannot be replayed. "
        "Await it in the workflow function, or run branches concurrently with mendflow.gather()."
    )
    return NotDurable(msg)
