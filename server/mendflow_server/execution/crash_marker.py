"""The crash marker: whose code executes, in a file beside the store.

At a crash the next process wants to know what executed. The code of a workflow
during a replay has no attempt on record that could be blamed. Of the attempts
on record, most only wait: for an answer, for a timer, for their turn. So the
server marks the code in this file before it runs it. The file is mapped into
memory. A write costs a fraction of a microsecond and outlives the process,
though not a power cut, which is no workflow's doing.

The file holds the key of the workflow whose code has the event loop, then one
mark for the attempt that has the loop, then one for each thread of steps. A
mark is the key of a workflow and the sequence of an AttemptStarted. Its writer
stores the sequence first. A key of 0 means that nothing executes there.
"""

from __future__ import annotations

import errno
import mmap
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from mendflow_server.store.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mendflow_server.attempts.model import Mark

#: The size of a number, and how many numbers are before the marks, and in a mark.
_SIZE, _BEFORE, _MARK = 8, 1, 2


class Marks(NamedTuple):
    """What executed when a process ended."""

    #: The key of the workflow whose code had the loop; 0: none.
    code: int
    #: The attempts: keys of workflows, and sequences of AttemptStarted.
    attempts: frozenset[tuple[int, int]]


#: The marks where nothing executed.
NO_MARKS: Final = Marks(0, frozenset())


class CrashMarker:
    """The marker in the file at ``path``; without a path it keeps nothing. It has marks for so many ``threads``.

    Raises `StoreUnavailable` where the file cannot be written.
    """

    def __init__(self, path: Path | None, *, threads: int = 0) -> None:
        #: What executed when the last process with this marker ended.
        self.left = NO_MARKS
        count = _BEFORE + _MARK * (1 + threads)
        #: The numbers in the map, or a list where there is no file.
        self._cells: memoryview | list[int] = [0] * count
        #: The mark of the attempt that has the loop.
        self.loop_mark: Mark = [0] * _MARK
        self.thread_marks: Sequence[Mark] = [[0] * _MARK for _ in range(threads)]
        if path is not None:
            self._map(path, count)

    def _map(self, path: Path, count: int) -> None:
        try:
            numbers = _numbers(path.read_bytes()) if path.exists() else []
            if len(numbers) != count:
                path.write_bytes(bytes(count * _SIZE))
            with path.open("r+b") as file:
                cells = memoryview(mmap.mmap(file.fileno(), count * _SIZE)).cast("q")
        except OSError as error:
            full = error.errno == errno.ENOSPC
            advice = "free some space on the disk" if full else "make it writable for this server"
            message = f"{path} cannot be written: {error.strerror}; {advice}"
            raise StoreUnavailable(message) from error
        self.left = _marks(numbers)
        for index in range(count):
            cells[index] = 0
        self._cells = cells
        self.loop_mark, *self.thread_marks = (cells[start : start + _MARK] for start in range(_BEFORE, count, _MARK))

    def enter(self, key: int) -> None:
        """Record that the code of this workflow gets the event loop."""
        self._cells[0] = key

    def leave(self) -> None:
        """Record that the code has returned the event loop."""
        self._cells[0] = 0

    def close(self) -> None:
        """Close the file, as soon as no thread holds its mark any more."""
        self._cells = [0]
        self.loop_mark, self.thread_marks = [0] * _MARK, []


def read_marks(path: Path) -> Marks | None:
    """Return the marks in the file of a process that has ended; None if it cannot be read."""
    try:
        return _marks(_numbers(path.read_bytes()))
    except OSError:
        return None


def _marks(numbers: Sequence[int]) -> Marks:
    marks = zip(numbers[_BEFORE::_MARK], numbers[_BEFORE + 1 :: _MARK], strict=False)
    return Marks(numbers[0] if numbers else 0, frozenset(mark for mark in marks if mark[0]))


def _numbers(content: bytes) -> tuple[int, ...]:
    whole = len(content) // _SIZE
    return struct.unpack(f"={whole}q", content[: whole * _SIZE])
