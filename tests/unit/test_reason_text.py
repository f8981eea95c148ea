"""The reason for a workflow's state in words."""

from __future__ import annotations

import pytest

from mendflow.cli.reason_text import reason_text
from mendflow.cli.times import due_text, span_text
from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.event_samples import HOSTILE

NOW = 1_896_091_200


def why(state: str, reason: str = "UNSPECIFIED", explanation: str = "", wake: float | None = None) -> str:
    workflow = workflow_pb2.Workflow(
        state=workflow_pb2.WorkflowState.Value(f"WORKFLOW_STATE_{state}"),
        reason=event_pb2.StateReason.Value(f"STATE_REASON_{reason}"),
        explanation=explanation,
    )
    if wake is not None:
        workflow.wake_time.FromMilliseconds(round((NOW + wake) * 1_000))
    return reason_text(workflow, NOW)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("", ("RUNNING",)),
        ("", ("SUCCEEDED",)),
        ("waits for signal decision", ("WAITING", "SIGNAL", "decision")),
        ("waits for signal decision, times out in 5 min", ("WAITING", "SIGNAL", "decision", 300)),
        ("waits for signal decision, times out now", ("WAITING", "SIGNAL", "decision", -1)),
        ("backs off: reserve, attempt 3, in 12 s", ("WAITING", "BACKOFF", "reserve, attempt 3", 11.2)),
        ("sleeps: sleep#2, in 1 d 2 h", ("WAITING", "TIMER", "sleep#2", 93_600)),
        ("waits for a slot", ("WAITING", "SLOT", "attempts waiting for a slot: 1", 5)),
        ("waits for a slot: 3 attempts", ("WAITING", "SLOT", "attempts waiting for a slot: 3")),
        ("suspected: kills", ("WAITING", "SUSPECTED", "kills", 9)),
        (
            "waits for the code of attempt 1 of reserve to end",
            ("WAITING", "THREAD", "hung code of attempt 1 of reserve"),
        ),
        ("waits for code: something else", ("WAITING", "THREAD", "something else")),
        (
            "paused: the workflow function raised KeyError",
            ("PAUSED", "WORKFLOW_ERROR", "the workflow function raised KeyError"),
        ),
        ("paused: retries exhausted", ("PAUSED", "RETRIES_EXHAUSTED")),
        ("quarantined: crash budget", ("QUARANTINED", "CRASH_BUDGET")),
        ("cleans up", ("CANCELLING", "UNSPECIFIED", "", 60)),
        ("the history reached its limit", ("FAILED", "HISTORY_LIMIT")),
        ("clean-up was interrupted at its deadline", ("CANCELLED", "CLEANUP_DEADLINE")),
    ],
)
def test_a_state_has_its_words(words: str, arguments: tuple[str, str, str, float]) -> None:
    assert why(*arguments) == words


@pytest.mark.parametrize("reason", [name.removeprefix("STATE_REASON_") for name in event_pb2.StateReason.keys()[1:]])
@pytest.mark.parametrize("state", ["WAITING", "PAUSED", "QUARANTINED", "FAILED", "CANCELLED"])
def test_every_reason_has_words_in_one_clean_line(state: str, reason: str) -> None:
    assert why(state, reason)
    assert why(state, reason, HOSTILE, 1).isprintable()


def test_a_reason_of_a_newer_server_is_shown_too() -> None:
    number: event_pb2.StateReason.ValueType = 99  # type: ignore[assignment] # of a newer server
    workflow = workflow_pb2.Workflow(state=workflow_pb2.WORKFLOW_STATE_WAITING, reason=number, explanation="the tide")
    assert reason_text(workflow, NOW) == "state reason 99: the tide"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0.20 s"),
        (9.994, "9.99 s"),
        (9.996, "10 s"),
        (59.7, "1 min"),
        (3_723, "1 h 2 min"),
        (90_000, "1 d 1 h"),
        (-1, "0.00 s"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert span_text(seconds) == words


def test_a_time_that_comes_is_never_zero_seconds_away() -> None:
    workflow = workflow_pb2.Workflow()
    workflow.wake_time.FromMilliseconds(NOW * 1_000 + 1)
    assert due_text(workflow.wake_time, NOW) == "in 1 s"
    assert due_text(workflow.wake_time, NOW + 1) == "now"
