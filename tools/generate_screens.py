"""Write the screens of docs/command-line.md from recorded workflows: `make screens`.

The screens come from the code that the commands use, at a fixed time, so that they stay true.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format
from rich.console import Console

from mendflow.cli.call_fold import Calls
from mendflow.cli.call_tree import call_tree
from mendflow.cli.progress_view import ProgressView
from mendflow.cli.reason_text import reason_text
from mendflow.cli.screen import rendered
from mendflow.cli.workflow_text import WorkflowTable, is_final, workflow_head
from mendflow.v1 import event_pb2, workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = Path(__file__).resolve().parent.parent / "docs/command-line.md"
#: The time at which the screens are made: 2030-01-31 12:00:00 UTC.
NOW: Final = 1_896_091_200
_BLOCK: Final = re.compile(r"(<!-- screen: (?P<name>[a-z0-9 ]+) -->\n```text\n).*?(```\n)", re.DOTALL)


def screens() -> dict[str, str]:
    """Return the text of each screen by its name."""
    found = {"reasons": reasons()}
    for width in (80, 160):
        for colour, suffix in ((False, ""), (True, " in colour")):
            found[f"list {width}{suffix}"] = on_screen([WorkflowTable(workflows(), NOW, header=True)], width, colour)
            found[f"show {width}{suffix}"] = on_screen(show_items(), width, colour)
            found[f"watch {width}{suffix}"] = watch(width, colour)
    return found


def filled(page: str) -> str:
    """Return a page with its screens replaced. Raise KeyError for a screen of another name."""
    known = screens()
    return _BLOCK.sub(lambda block: f"{block[1]}{known[block['name']]}{block[3]}", page)


def on_screen(items: list[Any], width: int, colour: bool) -> str:  # noqa: FBT001 - called with a loop's variable
    """Return what a terminal of this width shows. The escape character is written as a backslash and e."""
    return "".join(rendered(item, console(width, colour)) for item in items).replace("\x1b", "\\e")


def console(width: int, colour: bool) -> Console:  # noqa: FBT001 - as above
    """Return a terminal of this width."""
    system: Any = "standard" if colour else None
    return Console(
        file=io.StringIO(),
        width=width,
        height=40,
        force_terminal=True,
        color_system=system,
        highlight=False,
        _environ={},
    )


def workflows() -> list[workflow_pb2.Workflow]:
    """Return workflows in the states that need a reason."""
    return [_workflow(*each) for each in WORKFLOWS]


def _workflow(id: str, kind: str, state: str, reason: str, explanation: str, wake: int | None) -> workflow_pb2.Workflow:
    content: dict[str, Any] = {
        "workflow_id": id,
        "workflow_type": kind,
        "state": f"WORKFLOW_STATE_{state}",
        "create_time": "2030-01-31T11:58:00Z",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "explanation": explanation,
    }
    if reason:
        content["reason"] = f"STATE_REASON_{reason}"
    workflow = json_format.ParseDict(content, workflow_pb2.Workflow())
    if wake is not None:
        workflow.wake_time.FromSeconds(NOW + wake)
    return workflow


def reasons() -> str:
    """Return a line for each reason."""
    rows = [(f"{each[2]} {each[3]}".rstrip(), reason_text(_workflow(*each), NOW)) for each in WORKFLOWS]
    return "".join(f"{name:<29} {text}".rstrip() + "\n" for name, text in rows)


def show_items() -> list[Any]:
    """Return what `mendflow show order-17` prints."""
    workflow = _workflow(*WORKFLOWS[0])
    workflow.input.json = '{"order_id": "order-17", "items": [{"sku": "lamp", "price_cents": 4900}]}'
    calls = Calls()
    for event in events():
        calls.add(event)
    return [
        workflow_head(workflow, NOW, calls.pause_failure),
        call_tree(calls, NOW, ended=is_final(workflow.state)),
    ]


def watch(width: int, colour: bool) -> str:  # noqa: FBT001 - as above
    """Return what `mendflow watch order-17` leaves on a terminal."""
    terminal = console(width, colour)
    with terminal.capture() as captured:
        view = ProgressView(json=False, terminal=terminal)
        for event in events():
            view.show(event)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()).replace("\x1b", "\\e")


def events() -> Iterator[event_pb2.Event]:
    """Yield the recorded events of order-17."""
    for sequence, (second, detail, content) in enumerate(EVENTS, start=1):
        event = json_format.ParseDict({"sequence": str(sequence), detail: content}, event_pb2.Event())
        event.time.FromMilliseconds(round((NOW + second) * 1_000))
        yield event


#: Workflows for the list: id, type, state, reason, explanation, and the seconds until the wait is over.
WORKFLOWS: Final = [
    ("order-17", "place_order", "WAITING", "BACKOFF", "audit, attempt 2", 12),
    ("order-18", "place_order", "WAITING", "SIGNAL", "approve", 240),
    ("nightly/2030-01-31/eu-central-1/customers-a-to-m", "send_campaign", "WAITING", "TIMER", "sleep#2", 93_600),
    ("order-19", "place_order", "WAITING", "SLOT", "attempts waiting for a slot: 3", None),
    ("order-20", "place_order", "WAITING", "SUSPECTED", "kills", None),
    ("order-21", "place_order", "WAITING", "THREAD", "hung code of attempt 1 of reserve", None),
    (
        "order-22",
        "old_order",
        "WAITING",
        "NOT_SERVED",
        "no server serves old_order and understands its history",
        None,
    ),
    (
        "order-23",
        "place_order",
        "PAUSED",
        "WORKFLOW_ERROR",
        "the workflow function raised builtins.KeyError: 'sku'; serve code that does not, or end it (mendflow cancel)",
        None,
    ),
    (
        "order-24",
        "place_order",
        "QUARANTINED",
        "CRASH_BUDGET",
        "the server crashed 3 times with step kills running alone",
        None,
    ),
    ("order-25", "place_order", "CANCELLING", "", "", 60),
    ("order-26", "place_order", "RUNNING", "", "", None),
    ("order-27", "place_order", "SUCCEEDED", "", "", None),
    ("order-28", "place_order", "FAILED", "HISTORY_LIMIT", "", None),
    ("order-29", "place_order", "CANCELLED", "CLEANUP_DEADLINE", "", None),
    ("注文-30", "注文する", "WAITING", "SIGNAL", "承認", None),
]

_TRACEBACK: Final = (
    "Traceback (most recent call last):\n"
    '  File "/app/flows/order.py", line 57, in reserve\n    await stock.take(sku)\n'
    '  File "/app/flows/stock.py", line 12, in take\n    raise ConnectionError("refused")\n'
    "ConnectionError: refused\n"
)
_REFUSED: Final = {
    "kind": "FAILURE_KIND_TRANSIENT",
    "type": "builtins.ConnectionError",
    "message": "the stock at 10.0.0.7:5432 refused the connection",
    "traceback": _TRACEBACK,
}
_RETRY: Final = {
    "action": "RETRY_ACTION_RETRY",
    "reason": "RETRY_REASON_BACKOFF",
    "delay": "0.400s",
    "attempts_left": 3,
}


def _started(key: str, attempt: int) -> dict[str, Any]:
    return {"step_key": key, "step_name": key.rpartition("/")[2], "attempt": attempt}


#: The history of order-17: seconds from now, the kind and the content of each event.
EVENTS: Final[list[tuple[float, str, dict[str, Any]]]] = [
    (-120, "workflow_started", {"workflow_type": "place_order", "input": {"json": '{"order_id": "order-17"}'}}),
    (-120, "attempt_started", _started("gather[0]/reserve", 1)),
    (-120, "attempt_started", _started("gather[1]/weigh", 1)),
    (
        -119.8,
        "attempt_failed",
        {
            "step_key": "gather[0]/reserve",
            "attempt": 1,
            "failure": _REFUSED,
            "decision": {**_RETRY, "next_attempt_time": "2030-01-31T11:58:00.6Z"},
        },
    ),
    (-119.4, "attempt_started", _started("gather[0]/reserve", 2)),
    (-119.1, "attempt_succeeded", {"step_key": "gather[0]/reserve", "attempt": 2, "output": {"json": '"shelf 4"'}}),
    (
        -118,
        "progress_reported",
        {"step_key": "gather[1]/weigh", "attempt": 1, "done": "2", "total": "2", "message": "items"},
    ),
    (-117.9, "attempt_succeeded", {"step_key": "gather[1]/weigh", "attempt": 1, "output": {"json": "2.5"}}),
    (-117.9, "timer_started", {"key": "cool-down", "fire_time": "2030-01-31T11:58:30Z"}),
    (-90, "timer_fired", {"key": "cool-down"}),
    (-90, "signal_awaited", {"key": "signal:approve", "name": "approve", "deadline": "2030-01-31T12:04:00Z"}),
    (-90, "attempt_started", _started("audit", 1)),
    (
        -8,
        "attempt_failed",
        {
            "step_key": "audit",
            "attempt": 1,
            "failure": _REFUSED,
            "decision": {**_RETRY, "delay": "20s", "next_attempt_time": "2030-01-31T12:00:12Z"},
        },
    ),
    (-5, "signal_received", {"name": "aprove", "data": {"json": '{"by": "Ada"}'}}),
]


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
