"""How much a proof does: a short form in every run of the tests, a long one with MENDFLOW_SOAK=1."""

from __future__ import annotations

import os

SOAK = os.environ.get("MENDFLOW_SOAK") == "1"


def scaled(short: int, long: int) -> int:
    """Answer how much of something to do."""
    return long if SOAK else short
