"""The output of a watch: progress bars on a terminal, plain lines in a pipe, and messages with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from mendflow.cli.event_text import clean, describe_event
from mendflow.cli.payload_decoder import to_json
from mendflow.cli.screen import indented, on_terminal
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

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

#: The events after which a step's attempt no longer runs, with their step's key.
_ENDS_STEP: Final[dict[str, Callable[[event_pb2.Event], str]]] = {
    "attempt_started": lambda event: event.attempt_started.step_key,
    "attempt_succeeded": lambda event: event.attempt_succeeded.step_key,
    "attempt_failed": lambda event: event.attempt_failed.step_key,
    "call_cancelled": lambda event: event.call_cancelled.key,
}
#: The events after which the workflow's code does not run, and none of its steps.
_ENDS_WORKFLOW: Final = frozenset(
    {
        "workflow_succeeded",
        "workflow_failed",
        "workflow_cancelled",
        "workflow_terminated",
        "workflow_paused",
        "workflow_quarantined",
    }
)
#: The most bars at once. A further report replaces the bar that was updated least recently.
MOST_BARS = 6


#: The width of the clock, and of the spaces between the columns.
_CLOCK: Final = 11


def _column(width: int) -> Column:
    return Column(no_wrap=True, overflow="ellipsis", max_width=width)


class _Done(ProgressColumn):
    """The column with the completed amount and the workflow's message, which is shown without markup."""

    def render(self, task: Task) -> Text:
        """Return the text of one bar."""
        done = f"{task.completed:.0f}" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}"
        return Text(f"{done} {task.fields['message']}", overflow="ellipsis", no_wrap=True)


class ProgressView:
    """The view of one watch. Use it as a context manager. ``terminal`` is standard output, if that is one."""

    def __init__(self, *, json: bool, decoder: PayloadDecoder | None = None, terminal: Console | None = None) -> None:
        self._json = json
        self._decoder = decoder
        if terminal is None and on_terminal():
            terminal = Console(highlight=False)
        self._live = terminal is not None and not json
        self._console = terminal or Console(highlight=False)
        # A long step key or message is shortened, so that each bar has one line and all its columns.
        name, bar = self._console.width // 3, min(40, self._console.width // 5)
        rest = max(1, self._console.width - name - bar - _CLOCK)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=_column(name)),
            BarColumn(bar),
            _Done(_column(rest)),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._bars: dict[str, TaskID] = {}
        #: The newest report of each bar.
        self._reports: dict[str, event_pb2.Event] = {}

    def __enter__(self) -> Self:
        """Start the live display."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the live display. Each bar becomes a line, so that none stays as if its step were running."""
        try:
            self._end_bars(*self._bars)
        finally:
            self._progress.stop()

    def show(self, event: event_pb2.Event) -> None:
        """Show an event."""
        if self._json:
            indent = indented()
            click.echo(to_json(event, indent) if self._decoder is None else self._decoder.to_json(event, indent))
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
            # What the steps do without the server is not known, so their bars wait for the connection.
            if not connected:
                self._set_visible(visible=False)
            self._console.print(Text(text, style="green" if connected else "yellow"))
            if connected:
                self._set_visible(visible=True)
        else:
            click.echo(text, err=True)

    def _show_live(self, event: event_pb2.Event) -> None:
        detail = event.WhichOneof("detail") or ""
        if detail == "progress_reported":
            self._show_progress(event)
            return
        if detail in _ENDS_STEP:
            self._end_bars(_ENDS_STEP[detail](event))
        elif detail in _ENDS_WORKFLOW:
            self._end_bars(*self._bars)
        style = _STYLES.get(detail, "")
        if detail == "attempt_failed":
            lost = event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
            style = "cyan" if lost else "yellow"
        elif detail in ("attempt_started", "value_recorded"):
            style = "dim"
        self._print(event, style)

    def _print(self, event: event_pb2.Event, style: str) -> None:
        # A long line continues below its text.
        number, _, text = describe_event(event).partition(" ")
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_column(no_wrap=True, min_width=5)
        row.add_column(overflow="fold")
        # Spans, because a style of the whole cell would colour the space to its right.
        row.add_row(Text().append(number, style), Text().append(text.lstrip(), style))
        self._console.print(row)

    def _show_progress(self, event: event_pb2.Event) -> None:
        detail = event.progress_reported
        key = detail.step_key
        name = clean(key) or "workflow"
        total = detail.total or None
        bar = self._bars.pop(key, None)
        if bar is None:
            self._make_room()
            bar = self._progress.add_task(name, total=total, message="")
        self._bars[key] = bar
        self._reports[key] = event
        self._progress.update(bar, completed=detail.done, message=clean(detail.message))
        # Set the total directly, because update(total=None) keeps the old one.
        self._progress.tasks[self._progress.task_ids.index(bar)].total = total

    def _make_room(self) -> None:
        if len(self._bars) >= MOST_BARS:
            oldest = next(key for key in self._bars if key)
            self._remove(oldest)

    def _set_visible(self, *, visible: bool) -> None:
        for bar in self._bars.values():
            self._progress.update(bar, visible=visible)
        self._progress.refresh()

    def _end_bars(self, *keys: str) -> None:
        """Replace bars by the lines of their newest reports."""
        reports = [self._remove(key) for key in keys if key in self._bars]
        if reports:
            # A print draws the bars as they were at the last refresh.
            self._progress.refresh()
        for report in reports:
            self._print(report, "dim")

    def _remove(self, key: str) -> event_pb2.Event:
        self._progress.remove_task(self._bars.pop(key))
        return self._reports.pop(key)
