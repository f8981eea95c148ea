"""A terminal of its own for a process."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The time limit of a process, in seconds.
SECONDS = 60


def run_on_terminal(command: Sequence[str], environment: Mapping[str, str], columns: int) -> tuple[int, str]:
    """Run a command on its own terminal. Return its exit code and everything that it wrote."""
    terminal, its_side = pty.openpty()
    process = subprocess.Popen(
        command,
        env={**environment, "TERM": "xterm", "COLUMNS": str(columns)},
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
    )
    os.close(its_side)
    written = b""
    limit = time.monotonic() + SECONDS
    with contextlib.suppress(OSError):  # A terminal reports this way that its other side is closed.
        while time.monotonic() < limit and select.select([terminal], [], [], SECONDS)[0]:
            piece = os.read(terminal, 65536)
            if not piece:
                break
            written += piece
    os.close(terminal)
    return process.wait(SECONDS), written.decode()
