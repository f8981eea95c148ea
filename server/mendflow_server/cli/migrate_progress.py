"""How `mendflow migrate` shows its phases."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from mendflow_server.cli.progress_bar import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PhaseMeter"]


class PhaseMeter:
    """Shows the phases of a move. Use it as a context manager. It is a `Progress` of the store."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar = ProgressBar("opening", None, clock=clock)
        self._phase = ""
        self._done = 0
        self._total: int | None = None

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._bar.__exit__()

    def begin(self, phase: str, total: int | None) -> None:
        """Show a new phase with about so many rows."""
        self._phase, self._done, self._total = phase, 0, total
        self._bar.begin(phase, total, phase if total is None else f"{phase} about {total} rows")

    def advance(self, rows: int) -> None:
        """Show that some more rows of the phase are done."""
        self._done += rows
        of = "" if self._total is None else f" of about {self._total}"
        self._bar.update(self._done, f"{self._phase}: {self._done}{of} rows")
