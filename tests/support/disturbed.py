"""The command with disturbances and faults: `python -m tests.support.disturbed NAME,NAME serve …`.

This is a composition root for tests. Nothing in the shipped server can switch them on.
"""

from __future__ import annotations

import sys

from mendflow.cli import main
from tests.support.faults import build_with

if __name__ == "__main__":
    names = sys.argv.pop(1).split(",")
    main(prog_name="mendflow", obj=build_with(names).new_app)
