"""Settings of the Python interpreter that make a server fast."""

from __future__ import annotations

import gc
import sys

#: The garbage collector's thresholds: allocations, and collections of the two younger generations.
COLLECT_AFTER = (30_000, 20, 20)
#: How long a thread may keep the interpreter's lock that another thread asks for, in seconds.
SWITCH_INTERVAL = 0.001


def share_lock() -> None:
    """Make the event loop give up the interpreter's lock soon when another thread asks for it.

    The store's thread needs the lock for some microseconds between statements. By default it waits up to 5 ms for it
    each time the loop is busy, and the disk is idle meanwhile.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)


def collect_less() -> None:
    """Make the garbage collector look at less, less often. By default it takes a third of the server's time.

    What the start has left stays until the end. A workflow's memory is free as soon as it is evicted, without the
    collector. Only one object in 60 of the start is garbage, so a collection before would take 40 ms and free no page.
    """
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
