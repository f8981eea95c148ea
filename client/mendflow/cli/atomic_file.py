"""Writing a file completely or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Replace a file with this text as UTF-8, and make its folder if needed. Raise OSError if that fails.

    An existing file keeps its permissions, and stays unchanged if the write fails. A link stays a link, and its file is
    replaced. What is no file, such as a device or a pipe, gets the text.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            stream.write(text.encode())
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = path.parent / file.name
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
