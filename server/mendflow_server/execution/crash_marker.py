"""A note of whose workflow code has the loop, kept beside the store.

Workflow code that kills the process in a replay has no attempt on record that
could be blamed. So whoever lets workflow code run writes its workflow's key
here first. The file is mapped into memory: a write costs a fraction of a
microsecond and outlives the process, though not a power cut, which is nobody's
fault anyway.
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


class Note:
    """Without a path it keeps nothing. Raises `StoreUnavailable` where the file cannot be written."""

    def __init__(self, path: Path | None) -> None:
        #: The workflow whose code had the loop when the last process ended; 0: none.
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
        """The code of this workflow is about to have the loop."""
        self._cell[0] = key

    def leave(self) -> None:
        """It has given the loop back."""
        self._cell[0] = 0

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            if isinstance(self._cell, memoryview):
                self._cell.release()
            self._cell = [0]
            self._map.close()
            self._map = None
