"""The command line in its own process, for tests of its signals, its terminal, its encoding and its start."""

from __future__ import annotations

import os
import sys

from tests.support.servers import ROOT, SUPPORT

COMMAND = [sys.executable, "-m", "mendflow.cli"]
SECONDS = 60


def environment(**more: str) -> dict[str, str]:
    paths = [str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")]
    # Many build machines set FORCE_COLOR. A pipe must stay plain nevertheless.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "FORCE_COLOR": "1", **more}
