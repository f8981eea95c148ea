"""The command with disturbances and faults put in: `python -m tests.support.disturbed NAME,NAME serve …`.

A composition root for tests: nothing in the shipped server can switch them on.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from mendflow.cli import main
from tests.support.faults import FAULTS

if __name__ == "__main__":
    with ExitStack() as stack:
        for name in sys.argv.pop(1).split(","):
            FAULTS[name](stack)
        main(prog_name="mendflow")
