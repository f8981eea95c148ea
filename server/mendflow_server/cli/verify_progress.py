"""How `mendflow verify` shows its progress."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow_server.verification import Tally

__all__ = ["ProgressMeter"]

#: The interval between two lines of progress where there is no terminal, in seconds.
LINE_INTERVAL: Final = 10.0


class ProgressMeter:
    """Shows the progress on standard error: a bar on a terminal, else a line every 10 s. Use it as a context manager.

    ``total`` is the number of workflows, None when it is not known.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        # A process that was started with standard error closed has none.
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
            disable=not self._live,
            # The output of workflow code goes to standard error unchanged.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("verifying", total=total)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bar while the caller writes something else."""
        if not self._live:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def advance(self, tally: Tally) -> None:
        """Show the number of workflows in a tally."""
        self._progress.update(self._task, completed=tally.total)
        now = time.monotonic()
        if not self._live and now - self._last_line >= LINE_INTERVAL:
            self._last_line = now
            of = "" if self._total is None else f" of about {self._total}"
            click.echo(f"verified {tally.total}{of}", err=True)
