"""The output of a watch: progress bars on a terminal, plain lines in a pipe, and messages with --json."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from mendflow.cli.event_text import clean, describe_event
from mendflow.cli.payload_decoder import to_json
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    from rich.progress import Task, TaskID

    from mendflow.cli.payload_decoder import PayloadDecoder
    from mendflow.v1 import event_pb2

__all__ = ["ProgressView"]

#: The style of an event's line, by the event's kind.
_STYLES = {
    "workflow_succeeded": "bold green",
    "workflow_failed": "bold red",
    "workflow_cancelled": "bold yellow",
    "workflow_terminated": "bold red",
    "workflow_paused": "bold yellow",
    "workflow_quarantined": "bold red",
    "workflow_recovered": "cyan",
    "attempt_succeeded": "green",
    "alert_raised": "bold red",
    "signal_received": "magenta",
}


#: The most bars at once. A further report replaces the bar that was updated least recently.
MOST_BARS = 6


class _Done(ProgressColumn):
    """The column with the completed amount and the workflow's message, which is shown without markup."""

    def render(self, task: Task) -> Text:
        """Return the text of one bar."""
        done = f"{task.completed:.0f}" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}"
        return Text(f"{done} {task.fields['message']}", overflow="ellipsis", no_wrap=True)


class ProgressView:
    """The view of one watch. Use it as a context manager."""

    def __init__(self, *, json: bool, decoder: PayloadDecoder | None = None) -> None:
        self._json = json
        self._decoder = decoder
        self._console = Console(highlight=False)
        # Do not use the console's own detection: FORCE_COLOR changes it, but a pipe must stay plain.
        self._live = sys.stdout.isatty() and not json
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Done(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Start the live display."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the live display. Its lines stay on the screen."""
        self._progress.stop()

    def show(self, event: event_pb2.Event) -> None:
        """Show an event."""
        if self._json:
            click.echo(to_json(event) if self._decoder is None else self._decoder.to_json(event))
            return
        if self._decoder is not None:
            event = self._decoder.readable(event)
        if self._live:
            self._show_live(event)
        else:
            click.echo(describe_event(event))

    def connection(self, connected: bool, why: str) -> None:  # noqa: FBT001 - the watch's callback
        """Show that the connection was lost, or that the watch has resumed."""
        text = "reconnected; the watch resumes" if connected else f"connection lost; reconnecting: {clean(why)}"
        if self._live:
            self._console.print(Text(text, style="green" if connected else "yellow"))
        else:
            click.echo(text, err=True)

    def _show_live(self, event: event_pb2.Event) -> None:
        detail = event.WhichOneof("detail") or ""
        if detail == "progress_reported":
            self._show_progress(event.progress_reported)
            return
        style = _STYLES.get(detail, "")
        if detail == "attempt_failed":
            lost = event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
            style = "cyan" if lost else "yellow"
        elif detail in ("attempt_started", "value_recorded"):
            style = "dim"
        self._console.print(Text(describe_event(event), style=style), soft_wrap=True)

    def _show_progress(self, detail: event_pb2.ProgressReported) -> None:
        key = detail.step_key
        name = clean(key) or "workflow"
        total = detail.total or None
        bar = self._bars.pop(key, None)
        if bar is None:
            self._make_room()
            bar = self._progress.add_task(name, total=total, message="")
        self._bars[key] = bar
        self._progress.update(bar, completed=detail.done, message=clean(detail.message))
        # Set the total directly, because update(total=None) keeps the old one.
        self._progress.tasks[self._progress.task_ids.index(bar)].total = total

    def _make_room(self) -> None:
        if len(self._bars) >= MOST_BARS:
            oldest = next(key for key in self._bars if key)
            self._progress.remove_task(self._bars.pop(oldest))
