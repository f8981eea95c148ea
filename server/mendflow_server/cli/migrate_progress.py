"""How `mendflow migrate` shows its progress."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PhaseMeter"]

#: The interval between two lines of one phase where there is no terminal, in seconds.
LINE_INTERVAL: Final = 10.0


class PhaseMeter:
    """Shows the phases of a move on standard error: a bar on a terminal, else a line per phase and every 10 s.

    Use it as a context manager. It is a `Progress` of the store.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # A process that was started with standard error closed has none.
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._phase = ""
        self._done = 0
        self._total: int | None = None
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
            disable=not self._live,
        )
        self._task = self._progress.add_task("opening", total=None)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def begin(self, phase: str, total: int | None) -> None:
        """Show a new phase with about so many rows."""
        self._phase, self._done, self._total = phase, 0, total
        self._progress.reset(self._task, description=phase, total=total)
        self._say(phase if total is None else f"{phase} about {total} rows")

    def advance(self, rows: int) -> None:
        """Show that some more rows of the phase are done."""
        self._done += rows
        self._progress.update(self._task, completed=self._done)
        if self._clock() - self._last_line >= LINE_INTERVAL:
            of = "" if self._total is None else f" of about {self._total}"
            self._say(f"{self._phase}: {self._done}{of} rows")

    def _say(self, line: str) -> None:
        if not self._live:
            self._last_line = self._clock()
            click.echo(line, err=True)
