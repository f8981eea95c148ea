"""Noticing what workflow code makes and forgets, which would otherwise stay silent.

A run notes the calls that its code makes. Two things it cannot see by itself:
a task, which would run beside the workflow and could not be replayed, is
refused where it is made; a coroutine that was dropped without an await is
known to Python, which warns of it, and the warning is handed to the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from mendflow.awaitables import Call
from mendflow.context import RUN
from mendflow.errors import NotDurable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["notice_forgotten"]

_NEVER_AWAITED = re.compile(r"coroutine '(.+)' was never awaited")


@contextlib.contextmanager
def notice_forgotten(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Refuse tasks that workflow code makes on this loop, and hand the runs their forgotten coroutines."""
    before = loop.get_task_factory()

    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        run = RUN.get()
        if run is not None and run.driving:
            raise _refusal(coroutine)
        if before is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return before(loop, coroutine, **options)

    loop.set_task_factory(make_task)
    try:
        with warnings.catch_warnings():
            _watch_warnings()
            yield
    finally:
        loop.set_task_factory(before)


def _refusal(coroutine: Any) -> NotDurable:
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    wrapped = None if frame is None else frame.f_locals.get("awaitable")
    what = str(wrapped) if isinstance(wrapped, Call) else f"{getattr(coroutine, '__qualname__', coroutine)}()"
    coroutine.close()
    msg = (
        f"{what} was made a task, but a task that the workflow does not know could not be replayed. "
        "Await it in the workflow function, or run branches side by side with mendflow.gather()."
    )
    return NotDurable(msg)


def _watch_warnings() -> None:
    show = warnings.showwarning
    shown: set[tuple[str, str, int]] = set()

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        found = _NEVER_AWAITED.match(str(message))
        if found is not None:
            run = RUN.get()
            if run is not None and run.driving:
                run.forgotten(f"coroutine {found[1]}()")
                return
            place = (found[1], filename, lineno)
            if place in shown:
                return  # As it is by default: once for each place.
            shown.add(place)
        show(message, category, filename, lineno, file, line)

    # Each one: by default Python warns of the first at a line only.
    warnings.filterwarnings("always", _NEVER_AWAITED.pattern, RuntimeWarning)
    warnings.showwarning = note
