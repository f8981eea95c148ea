"""Which event loop the server runs on.

uvloop takes a tenth off the server's time for each call (docs/performance.md).
It is installed with the server where it can be; asyncio's own loop serves as
well.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mendflow_server.settings import Settings

__all__ = ["LoopNotInstalled", "run_on_loop"]

T = TypeVar("T")


class LoopNotInstalled(Exception):
    """The event loop that was asked for is not there; the message says what to do."""


def run_on_loop(main: Coroutine[Any, Any, T], settings: Settings) -> T:
    """Run to the end on the loop that the settings name. Raises `LoopNotInstalled`."""
    try:
        factory = _factory(settings.event_loop)
    except LoopNotInstalled:
        main.close()
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    if find_spec("uvloop") is None:
        if name == "auto":
            return None
        message = "MENDFLOW_EVENT_LOOP=uvloop: uvloop is not installed; pip install uvloop, or say auto or asyncio"
        raise LoopNotInstalled(message)
    import uvloop  # noqa: PLC0415 - it is not there on every system

    return uvloop.new_event_loop
