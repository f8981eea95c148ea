"""Files that another process is writing while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def whole_lines(path: Path) -> list[str]:
    """Return the lines that end with a newline. What follows the last newline may be half a line."""
    if not path.exists():
        return []
    # Split as bytes: half a line may also end within a character.
    written, _, _ = path.read_bytes().rpartition(b"\n")
    return written.decode("utf-8").splitlines()
