"""Files that another process is writing while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def whole_lines(path: Path) -> list[str]:
    """Return the lines that end with a newline: what follows the last one may be half of what its writer has to say."""
    if not path.exists():
        return []
    # Cut as bytes: half a line may also end within a character.
    written, _, _ = path.read_bytes().rpartition(b"\n")
    return written.decode("utf-8").splitlines()
