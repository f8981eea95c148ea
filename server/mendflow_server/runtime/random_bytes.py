"""Random bytes from the operating system, fetched many at a time.

Each call of `os.urandom` releases the interpreter's lock, and acquiring it again
takes longer than reading the bytes.
"""

from __future__ import annotations

import os

#: The number of bytes fetched at once.
FETCHED = 4096


class RandomBytes:
    """A source of random bytes for one thread. After a fork, the child must not use it."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def __call__(self, count: int) -> bytes:
        """Return ``count`` new random bytes; ``count`` must not exceed `FETCHED`."""
        if self._used + count > len(self._bytes):
            self._bytes, self._used = os.urandom(FETCHED), 0
        self._used += count
        return self._bytes[self._used - count : self._used]
