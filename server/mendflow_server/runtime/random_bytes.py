"""Random bytes, fetched from the operating system many at a time.

Each call of `os.urandom` lets go of the interpreter's lock, and getting it
back takes longer than the bytes.
"""

from __future__ import annotations

import os

#: How many bytes are fetched at once.
FETCHED = 4096


class RandomBytes:
    """Not for several threads, and not to be taken along by a fork once it was used."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def __call__(self, count: int) -> bytes:
        """Answer this many bytes that nobody had before; at most `FETCHED`."""
        if self._used + count > len(self._bytes):
            self._bytes, self._used = os.urandom(FETCHED), 0
        self._used += count
        return self._bytes[self._used - count : self._used]
