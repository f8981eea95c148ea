"""Threads that are created after steps have run, which may have broken what `threading` needs to create one."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["daemon_thread", "mend_hooks"]


def daemon_thread(
    target: Callable[..., object], *, name: str | None = None, args: tuple[Any, ...] = ()
) -> threading.Thread:
    """Return a new thread that does not keep the process from ending. It is not started."""
    mend_hooks()
    return threading.Thread(target=target, name=name, args=args, daemon=True)


def mend_hooks() -> None:
    """Put back the hooks for uncaught exceptions that a step has removed: Python creates no thread without them."""
    if getattr(threading, "excepthook", None) is None:
        threading.excepthook = threading.__excepthook__
    if getattr(sys, "excepthook", None) is None:
        sys.excepthook = sys.__excepthook__
