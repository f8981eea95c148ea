"""The command line in its own process, for tests of its signals, its terminal, its encoding and its start."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.servers import ROOT, SUPPORT

if TYPE_CHECKING:
    from pathlib import Path


COMMAND = [sys.executable, "-m", "mendflow.cli"]
SECONDS = 60


def environment(**more: str) -> dict[str, str]:
    paths = [str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")]
    # Many build machines set FORCE_COLOR. A pipe must stay plain nevertheless.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FORCE_COLOR": "1", **more}


def serve(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mendflow serve`, which must fail."""
    return subprocess.run(
        [*COMMAND, "serve", *arguments],
        env=environment(),
        cwd=directory,
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
