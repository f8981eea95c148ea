"""The size of a proof: short in every run of the tests, long with MENDFLOW_SOAK=1."""

from __future__ import annotations

import os

SOAK = os.environ.get("MENDFLOW_SOAK") == "1"


def scaled(short: int, long: int) -> int:
    """Return the short or the long amount."""
    return long if SOAK else short
