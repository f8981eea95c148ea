"""End a process that does not end by itself.

User code can hold a process: a task that ignores its cancel, a thread that is
no daemon, a loop that never yields. So can a disk that does not answer. The
guard is a thread that none of them blocks. When a limit that was set with `limit`
has passed, it logs what the process is doing and ends it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from mendflow_server.runtime.threads import daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["ExitGuard"]

log = structlog.get_logger("mendflow.exit")

#: The longest that the last log line may take, in seconds: its reader may hang too.
_LOG_SECONDS: Final = 1.0
#: How many frames of the main thread the log has.
_FRAMES: Final = 5


class _Limit(NamedTuple):
    #: By the monotonic clock.
    at: float
    seconds: float
    code: int


class ExitGuard:
    """Ends the process with ``exit_now`` when a limit has passed. It starts its thread at once."""

    def __init__(self, exit_now: Callable[[int], object] = os._exit) -> None:
        self._exit_now = exit_now
        # Its `put` may interrupt itself, so a signal handler may call it.
        self._limits: queue.SimpleQueue[_Limit | None] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="mendflow-exit-guard", daemon=True).start()

    def limit(self, seconds: float, code: int) -> None:
        """End the process with this exit code after so many seconds, unless another call comes before."""
        self._limits.put(_Limit(time.monotonic() + seconds, seconds, code))

    def lift(self) -> None:
        """Remove the limit."""
        self._limits.put(None)

    def limit_exit(self, seconds: float, code: int) -> None:
        """Limit the exit of the interpreter: it waits for threads that are no daemons, and then frees objects.

        No thread of Python runs in its last part, so there faulthandler prints where it is and ends it, with 1.
        """

        def begin() -> None:
            self.limit(seconds, code)
            faulthandler.dump_traceback_later(seconds + _LOG_SECONDS, exit=True)

        self.lift()
        # concurrent.futures uses it too. There is no public call that comes before the wait for the threads.
        threading._register_atexit(begin)  # type: ignore[attr-defined]  # noqa: SLF001 - as above

    def _watch(self) -> None:
        limit: _Limit | None = None
        while True:
            timeout = None if limit is None else max(0.0, limit.at - time.monotonic())
            try:
                limit = self._limits.get(timeout=timeout)
            except queue.Empty:
                if limit is not None:
                    self._end(limit)
                limit = None

    def _end(self, limit: _Limit) -> None:
        logging = daemon_thread(_log_end, args=(limit,))
        with contextlib.suppress(RuntimeError):  # An interpreter that ends may start no thread.
            logging.start()
            logging.join(_LOG_SECONDS)
        self._exit_now(limit.code)


def _log_end(limit: _Limit) -> None:
    threads = [each for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    log.error(
        "exit_forced",
        seconds=limit.seconds,
        exit_code=limit.code,
        main_thread=_place_of(sys._current_frames().get(threading.main_thread().ident or 0)),  # noqa: SLF001 - documented
        threads=[each.name for each in threads],
    )


def _place_of(frame: FrameType | None) -> list[str]:
    """Return where a thread is, the innermost call last."""
    if frame is None:
        return []
    stack = traceback.extract_stack(frame)[-_FRAMES:]
    return [f"{each.filename}:{each.lineno} {each.name}" for each in stack]
