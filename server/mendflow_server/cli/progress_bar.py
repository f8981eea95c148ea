"""The progress of a command on standard error: a bar on a terminal, else a line every 10 s."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ProgressBar"]

#: The interval between two lines where there is no terminal, in seconds.
LINE_INTERVAL: Final = 10.0


class ProgressBar:
    """A bar with a description, of ``total`` parts; None when the number is not known. Use it as a context manager."""

    def __init__(self, description: str, total: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # A process that was started with standard error closed has none.
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._last_line = clock()
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
        self._task = self._progress.add_task(description, total=total)

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

    def begin(self, description: str, total: int | None, line: str) -> None:
        """Begin anew; where there is no terminal, print the line."""
        self._progress.reset(self._task, description=description, total=total)
        self._say(line)

    def update(self, done: int, line: str) -> None:
        """Show how many parts are done; where there is no terminal, print the line if one is due."""
        self._progress.update(self._task, completed=done)
        if not self._live and self._clock() - self._last_line >= LINE_INTERVAL:
            self._say(line)

    def _say(self, line: str) -> None:
        if not self._live:
            self._last_line = self._clock()
            click.echo(line, err=True)
