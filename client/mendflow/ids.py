"""Ids in time order, which keeps new rows next to each other in the server's store."""

from __future__ import annotations

import secrets
import threading
import time
import uuid

__all__ = ["new_id"]

_lock = threading.Lock()
_last = [0]


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562). Each id of this process is greater than the previous one.

    The 12 bits after the milliseconds hold fractions of a millisecond (method 3
    of the RFC), so that ids of the same millisecond are in order too.
    """
    with _lock:
        ticks = max(time.time_ns() * 4096 // 1_000_000, _last[0] + 1)
        _last[0] = ticks
    milliseconds, fraction = divmod(ticks, 4096)
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))
