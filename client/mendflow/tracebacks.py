"""Read the frames of a recorded traceback, and find those of the user's own code.

A failure has its traceback as text, since the process that raised it may be gone.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Frame", "frames_of", "is_foreign", "place_of", "users_frames"]

_FRAME: Final = re.compile(r'^ *(?:\| *)*File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)$', re.MULTILINE)
#: Installed packages, the standard library, and Mendflow itself, by parts of a path of any system.
_FOREIGN: Final = re.compile(
    r"[\\/](?:site-packages|dist-packages|lib[\\/]python\d[^\\/]*|mendflow_server|mendflow[\\/](?:authoring|client|codec))"
    r"[\\/]|^<frozen "
)


class Frame(NamedTuple):
    """One frame: the file, the line from 1, and the function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def is_foreign(file: str) -> bool:
    """Return whether a source file is Mendflow's, a library's or Python's, and not the user's own."""
    return _FOREIGN.search(file) is not None


def frames_of(traceback: str) -> list[Frame]:
    """Return the frames of a traceback's text, the innermost last."""
    return [Frame(found["file"], int(found["line"]), found["function"]) for found in _FRAME.finditer(traceback)]


def users_frames(traceback: str) -> list[Frame]:
    """Return the frames that are neither Mendflow's nor a library's; all frames, if there are no others."""
    frames = frames_of(traceback)
    return [frame for frame in frames if not is_foreign(frame.file)] or frames


def place_of(traceback: str) -> str:
    """Return where the user's own code raised, as in "flows.py:12 in charge"; empty if the text has no frame."""
    frames = users_frames(traceback)
    return str(frames[-1]) if frames else ""
