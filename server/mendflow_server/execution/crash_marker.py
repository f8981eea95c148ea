"""The crash marker: which workflow's code has the event loop, in a file beside the store.

Workflow code that crashes the process during a replay has no attempt on record
that could be blamed. So the server writes the workflow's key to this file
before it runs the code. The file is mapped into memory. A write costs a
fraction of a microsecond and outlives the process, though not a power cut,
which is no workflow's doing.
"""

from __future__ import annotations

import errno
import mmap
from typing import TYPE_CHECKING

from mendflow_server.store.errors import StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

#: The size of a key.
_SIZE = 8


class CrashMarker:
    """The marker in the file at ``path``; without a path it keeps nothing.

    Raises `StoreUnavailable` where the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        #: The key of the workflow whose code had the loop when the last process ended; 0: none.
        self.left = 0
        self._map: mmap.mmap | None = None
        #: The key in the map, as a list of one.
        self._cell: memoryview | list[int] = [0]
        if path is None:
            return
        try:
            if not path.exists() or path.stat().st_size != _SIZE:
                path.write_bytes(bytes(_SIZE))
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _SIZE)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            advice = "free some space on the disk" if full else "make it writable for this server"
            message = f"{path} cannot be written: {error.strerror}; {advice}"
            raise StoreUnavailable(message) from error
        self._cell = memoryview(self._map).cast("q")
        self.left = self._cell[0]
        self.leave()

    def enter(self, key: int) -> None:
        """Record that the code of this workflow gets the event loop."""
        self._cell[0] = key

    def leave(self) -> None:
        """Record that the code has returned the event loop."""
        self._cell[0] = 0

    def close(self) -> None:
        """Close the file."""
        if self._map is not None:
            if isinstance(self._cell, memoryview):
                self._cell.release()
            self._cell = [0]
            self._map.close()
            self._map = None
