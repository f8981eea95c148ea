"""Workflows as text: the table of `mendflow list`, and the head of `mendflow show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mendflow.cli.call_tree import failure_lines
from mendflow.cli.event_text import clean, describe_payload, state_name
from mendflow.cli.reason_text import reason_text
from mendflow.cli.times import date_text, seconds_of, span_text
from mendflow.v1 import workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from mendflow.v1.failure_pb2 import Failure

__all__ = ["WorkflowTable", "is_final", "workflow_head"]

#: From this width on, the type, the id and the reason have columns of their own.
_WIDE: Final = 120
#: The most characters of a reason in a list. `show` has all of it.
LONGEST_REASON: Final = 160

_STYLES: Final[Mapping[int, str]] = {
    workflow_pb2.WORKFLOW_STATE_SUCCEEDED: "green",
    workflow_pb2.WORKFLOW_STATE_FAILED: "bold red",
    workflow_pb2.WORKFLOW_STATE_TERMINATED: "bold red",
    workflow_pb2.WORKFLOW_STATE_QUARANTINED: "bold red",
    workflow_pb2.WORKFLOW_STATE_PAUSED: "bold yellow",
    workflow_pb2.WORKFLOW_STATE_CANCELLING: "yellow",
    workflow_pb2.WORKFLOW_STATE_CANCELLED: "yellow",
    workflow_pb2.WORKFLOW_STATE_RUNNING: "cyan",
}
_FINAL: Final = frozenset(
    {
        workflow_pb2.WORKFLOW_STATE_SUCCEEDED,
        workflow_pb2.WORKFLOW_STATE_FAILED,
        workflow_pb2.WORKFLOW_STATE_CANCELLED,
        workflow_pb2.WORKFLOW_STATE_TERMINATED,
    }
)


def is_final(state: int) -> bool:
    """Return whether a workflow in this state has ended."""
    return state in _FINAL


class WorkflowTable:
    """The rows of a list. A narrow terminal shows the id, the type and the reason in one column."""

    def __init__(self, workflows: Sequence[workflow_pb2.Workflow], now: float, *, header: bool) -> None:
        self._workflows = workflows
        self._now = now
        self._header = header

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table for the width of a terminal."""
        table = Table(box=None, show_header=self._header, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("CREATED", no_wrap=True, min_width=20)
        table.add_column("STATE", no_wrap=True, min_width=11)
        # These columns fold and truncate nothing, because an id is there to be copied.
        if options.max_width < _WIDE:
            table.add_column("WORKFLOW", overflow="fold")
        else:
            table.add_column("TYPE", overflow="fold", min_width=6)
            table.add_column("ID", overflow="fold", min_width=8)
            table.add_column("REASON", overflow="fold", min_width=20)
        for workflow in self._workflows:
            table.add_row(date_text(workflow.create_time), _state(workflow.state), *self._cells(workflow, options))
        yield table

    def _cells(self, workflow: workflow_pb2.Workflow, options: ConsoleOptions) -> Iterator[Text]:
        reason = reason_text(workflow, self._now)
        if len(reason) > LONGEST_REASON:
            reason = f"{reason[:LONGEST_REASON]}…"
        type_, id_ = clean(workflow.workflow_type), clean(workflow.workflow_id)
        if options.max_width < _WIDE:
            yield Text("\n".join(filter(None, (f"{id_}  {type_}", reason))))
        else:
            yield from map(Text, (type_, id_, reason))


def _title(workflow: workflow_pb2.Workflow) -> Text:
    begin = f"{clean(workflow.workflow_id)}  {clean(workflow.workflow_type)}  "
    return Text.assemble(begin, _state(workflow.state))


def workflow_head(workflow: workflow_pb2.Workflow, now: float, pause_failure: Failure | None = None) -> Group:
    """Return what is known of a workflow, without its calls. ``pause_failure`` is the error for which it is paused."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for name, value in _facts(workflow, now, pause_failure):
        table.add_row(f"  {name:<9}", Text(value))
    return Group(_title(workflow), table)


def _state(state: int) -> Text:
    return Text(state_name(state), style=_STYLES.get(state, ""))


def _facts(workflow: workflow_pb2.Workflow, now: float, pause_failure: Failure | None) -> Iterator[tuple[str, str]]:
    if reason := reason_text(workflow, now):
        yield "reason", reason
    if workflow.HasField("wake_time"):
        yield "wakes at", date_text(workflow.wake_time)
    yield "created", date_text(workflow.create_time)
    if workflow.HasField("end_time"):
        took = seconds_of(workflow.end_time) - seconds_of(workflow.create_time)
        yield "ended", f"{date_text(workflow.end_time)}, after {span_text(took)}"
    if workflow.held:
        yield "held", "until mendflow release; neither retention nor mendflow delete deletes it"
    if workflow.labels:
        yield "labels", clean(", ".join(f"{name}={value}" for name, value in sorted(workflow.labels.items())))
    yield "trace", clean(workflow.trace_id)
    if workflow.HasField("input"):
        yield "input", clean(describe_payload(workflow.input))
    if workflow.HasField("output"):
        yield "output", clean(describe_payload(workflow.output))
    if workflow.HasField("failure"):
        yield "failure", "\n".join(failure_lines(workflow.failure))
    elif pause_failure is not None and pause_failure.kind:
        yield "failure", "\n".join(failure_lines(pause_failure))
