"""The signals that end the server, which it keeps for itself.

The code of an `async def` step runs on the main thread. It may install handlers of its own, often by a library that
starts a program, and a server that no longer hears SIGTERM does not drain. So the server looks again and again whether
its handlers are still there. The event loop's `add_signal_handler` and `remove_signal_handler` replace them too.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["EndingSignals"]

log = structlog.get_logger("mendflow.app")

#: How often the handlers are looked at, in seconds.
INTERVAL: Final = 0.25


class EndingSignals:
    """Makes a call at the first of these signals. The next one ends the process.

    The call is made between any two instructions of the main thread, so that code that blocks the event loop does not
    keep the process from its end. The handlers are not the loop's own for the same reason.
    """

    def __init__(self, signals: Sequence[signal.Signals], call: Callable[[], Any]) -> None:
        self._signals = tuple(signals)
        self._call = call
        self._received = False
        self._handler = self._receive  # A bound method is a new object at each access.
        for number in self._signals:
            signal.signal(number, self._handler)

    def _receive(self, _number: int, _frame: object) -> None:
        self._received = True
        self._call()
        for number in self._signals:
            # It must not raise KeyboardInterrupt inside a workflow's code.
            signal.signal(number, signal.SIG_DFL)

    def restore(self) -> None:
        """Install the handlers that were replaced, and log each, unless a signal was received."""
        for number in self._signals:
            if not self._received and signal.getsignal(number) is not self._handler:
                signal.signal(number, self._handler)
                log.warning("signal_handler_restored", signal=number.name)

    async def keep(self) -> None:
        """Restore the handlers at every interval, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            self.restore()
