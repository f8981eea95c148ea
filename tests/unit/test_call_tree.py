"""The tree of `mendflow show` and the table of `mendflow list`: what they say, and that no text breaks their layout."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from mendflow.cli.call_fold import Calls
from mendflow.cli.call_tree import call_tree
from mendflow.cli.screen import rendered
from mendflow.cli.workflow_text import WorkflowTable, workflow_head
from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.event_samples import HOSTILE, event_of, newer_event

if TYPE_CHECKING:
    from rich.console import RenderableType

NOW = 1_893_499_201 + 10
WIDE = "注文" * 60
LONG = "customers-" * 20
KINDS = [field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields]


def screen(item: RenderableType, width: int = 160) -> str:
    return rendered(item, Console(file=io.StringIO(), width=width, color_system=None, _environ={}))


def tree(*details: tuple[str, dict[str, Any]], ended: bool = False, width: int = 160) -> str:
    calls = Calls()
    for sequence, (detail, content) in enumerate(details, start=1):
        calls.add(event_of(detail, content, sequence))
    return screen(call_tree(calls, NOW, ended=ended), width)


def failed(action: str = "FAIL_STEP", **decision: str) -> tuple[str, dict[str, Any]]:
    traceback = 'Traceback (most recent call last):\n  File "/app/flows.py", line 12, in charge\n    raise ValueError\n'
    failure = {"type": "builtins.ValueError", "message": "no", "kind": "FAILURE_KIND_TRANSIENT", "traceback": traceback}
    decided = {"action": f"RETRY_ACTION_{action}", **decision}
    return "attempt_failed", {"step_key": "charge", "attempt": 1, "failure": failure, "decision": decided}


STARTED = ("attempt_started", {"step_key": "charge", "step_name": "charge", "attempt": 1})


def test_a_failed_step_has_the_users_frames_and_its_attempts() -> None:
    shown = tree(STARTED, failed())
    assert "└── charge  failed after 0.00 s\n" in shown
    assert "attempt 1 failed after 0.00 s: ValueError: no (transient)\n" in shown
    assert "  at /app/flows.py:12 in charge\n" in shown


def test_a_lost_attempt_says_why() -> None:
    detail, content = failed("RETRY")
    content["failure"] = {"kind": "FAILURE_KIND_LOST", "message": "an internal error ended this attempt"}
    shown = tree(STARTED, (detail, content))
    assert "attempt 1 lost after 0.00 s: an internal error ended this attempt\n" in shown


@pytest.mark.parametrize(
    ("words", "details"),
    [
        ("charge  runs attempt 1 for", [STARTED]),
        ("charge  attempt 2 is due", [STARTED, failed("RETRY", next_attempt_time="2030-01-01T12:00:00Z")]),
        ("charge  backs off: attempt 2 in", [STARTED, failed("RETRY", next_attempt_time="2031-01-01T12:00:00Z")]),
        (
            "charge  suspected: attempt 2 waits to run in isolation",
            [STARTED, failed("RETRY", reason="RETRY_REASON_SUSPECTED")],
        ),
        ("charge  stopped after attempt 1; waits for mendflow resume", [STARTED, failed("PAUSE_WORKFLOW")]),
        ("charge  attempt 2 is due", [STARTED, failed("PAUSE_WORKFLOW"), ("workflow_resumed", {})]),
        ("charge  cancelled after", [STARTED, failed("CANCEL_STEP")]),
        (
            "nap  sleeps until 2031-01-01 12:00:00Z (in ",
            [("timer_started", {"key": "nap", "fire_time": "2031-01-01T12:00:00Z"})],
        ),
        ("nap  slept 0.00 s", [("timer_started", {"key": "nap"}), ("timer_fired", {"key": "nap"})]),
        ("w  waits for signal go", [("signal_awaited", {"key": "w", "name": "go"})]),
        (
            "w  got no signal go within",
            [("signal_awaited", {"key": "w", "name": "go"}), ("signal_timed_out", {"key": "w"})],
        ),
        (
            "w  took signal go after",
            [("signal_received", {"name": "go"}), ("signal_taken", {"key": "w", "signal_sequence": "1"})],
        ),
        ("signal og arrived and was not taken", [("signal_received", {"name": "og"})]),
        ("progress 3 of 9", [STARTED, ("progress_reported", {"step_key": "charge", "done": "3", "total": "9"})]),
        ("no calls", [("workflow_started", {})]),
    ],
)
def test_a_call_shows_what_it_did_or_waits_for(words: str, details: list[tuple[str, dict[str, Any]]]) -> None:
    assert words in tree(*details)


def test_a_gather_is_a_branch_also_inside_another() -> None:
    shown = tree(
        ("attempt_started", {"step_key": "gather[0]/gather[1]/charge", "attempt": 1}),
        ("attempt_started", {"step_key": "gather[0]/ship", "attempt": 1}),
    )
    assert [line.partition("  ")[0] if "runs" in line else line for line in shown.splitlines()[1:2]] == [
        "└── gather[0]"
    ]
    assert "    ├── gather[1]\n    │   └── charge  runs" in shown
    assert "    └── ship  runs" in shown


def test_a_pause_has_the_error_and_the_users_frames_until_it_is_resumed() -> None:
    calls = Calls()
    _, content = failed()
    paused = event_of("workflow_paused", {"reason": "STATE_REASON_WORKFLOW_ERROR", "failure": content["failure"]})
    calls.add(paused)
    workflow = workflow_pb2.Workflow(state=workflow_pb2.WORKFLOW_STATE_PAUSED)
    assert "failure    ValueError: no (transient)\n               at /app/flows.py:12 in charge\n" in screen(
        workflow_head(workflow, NOW, calls.pause_failure)
    )
    calls.add(event_of("workflow_resumed", {}))
    assert calls.pause_failure is None


def test_a_cause_has_its_frames_too() -> None:
    _, content = failed()
    workflow = workflow_pb2.Workflow()
    workflow.failure.message = "step charge failed"
    workflow.failure.cause.message = "no"
    workflow.failure.cause.traceback = content["failure"]["traceback"]
    lines = screen(workflow_head(workflow, NOW)).splitlines()
    assert [line.strip() for line in lines[-2:]] == ["caused by no (unspecified)", "at /app/flows.py:12 in charge"]


def test_only_the_newest_attempts_are_shown() -> None:
    details = []
    for attempt in range(1, 31):
        detail, content = failed("RETRY")
        details += [
            ("attempt_started", {"step_key": "charge", "attempt": attempt}),
            (detail, {**content, "attempt": attempt}),
        ]
    shown = tree(*details)
    assert "… 25 earlier attempts" in shown
    assert "attempt 25 failed" not in shown
    assert shown.count("flows.py:12") == 1


def test_a_call_that_was_open_at_the_end_does_not_look_as_if_it_ran() -> None:
    assert "open when the workflow ended" in tree(STARTED, ended=True)


@pytest.mark.parametrize("kind", KINDS)
def test_any_event_alone_makes_a_tree(kind: str) -> None:
    calls = Calls()
    calls.add(event_of(kind, {}))
    calls.add(newer_event())
    assert screen(call_tree(calls, NOW, ended=False)).startswith(("calls", "no calls"))


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("text", [HOSTILE, WIDE, LONG], ids=["control characters", "wide", "long"])
def test_no_text_breaks_the_layout(text: str, width: int) -> None:
    workflow = workflow_pb2.Workflow(
        workflow_id=text,
        workflow_type=text,
        explanation=text,
        state=workflow_pb2.WORKFLOW_STATE_PAUSED,
        reason=event_pb2.STATE_REASON_RETRIES_EXHAUSTED,
    )
    workflow.labels["a"] = workflow.input.json = text
    workflow.failure.message, workflow.failure.traceback = text, f'  File "{text}", line 1, in {text}\n'
    items = [
        screen(WorkflowTable([workflow] * 2, NOW, header=True), width),
        screen(workflow_head(workflow, NOW), width),
        tree(
            ("attempt_started", {"step_key": f"gather[0]/{text}", "attempt": 1}),
            ("progress_reported", {"step_key": f"gather[0]/{text}", "done": "1", "message": text}),
            ("signal_awaited", {"key": "w", "name": text}),
            ("signal_received", {"name": text}),
            width=width,
        ),
    ]
    for lines in map(str.splitlines, items):
        assert max(map(cell_len, lines)) <= width
        assert all(line.isprintable() for line in lines)
    # The first line of the second row is where that of the first row is.
    rows = [line for line in items[0].splitlines() if "PAUSED" in line]
    assert len(rows) == 2
    assert rows[0] == rows[1]


def test_a_whole_id_can_be_copied_from_a_pipe() -> None:
    workflow = workflow_pb2.Workflow(workflow_id=LONG, explanation="e" * 1_000)
    assert LONG in screen(WorkflowTable([workflow], NOW, header=True), 1_000_000)
