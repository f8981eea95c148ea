"""The line that the command line prints for an event: every kind has its words, and no control character passes."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow.cli.event_text import clean, describe_causes, describe_event, describe_payload, state_name
from mendflow.v1 import event_pb2, failure_pb2
from mendflow.v1.payload_pb2 import Payload
from tests.support.event_samples import event_of, newer_event

DETAILS = [each.name for each in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields]

#: What a line must contain for each detail, besides its sequence. A new kind in the contract needs an entry here.
LINES: dict[str, tuple[dict[str, Any], str]] = {
    "workflow_started": ({"workflow_type": "checkout", "input": {"json": "7"}}, "checkout started with 7"),
    "workflow_recovered": (
        {"generation": "3", "replica_id": "b", "previous_replica_id": "a"},
        "recovered by b from a (generation 3)",
    ),
    "workflow_paused": (
        {"reason": "STATE_REASON_RETRIES_EXHAUSTED", "explanation": "charge failed"},
        "PAUSED (retries exhausted): charge failed",
    ),
    "workflow_resumed": ({"actor": "ann", "reason": "fixed"}, "resumed by ann: fixed"),
    "workflow_quarantined": ({"explanation": "it died alone 3 times"}, "QUARANTINED: it died alone 3 times"),
    "cancel_requested": ({"actor": "ann", "reason": "no need"}, "cancel requested by ann: no need"),
    "workflow_succeeded": ({"output": {"json": '"ok"'}}, 'SUCCEEDED with "ok"'),
    "workflow_failed": (
        {"failure": {"kind": "FAILURE_KIND_PERMANENT", "type": "a.b.Bad", "message": "no"}},
        "FAILED: Bad: no (permanent)",
    ),
    "workflow_cancelled": ({"cut_keys": ["undo", "undo#2"]}, "CANCELLED; interrupted: undo, undo#2"),
    "workflow_terminated": ({"actor": "ann", "reason": "stuck"}, "TERMINATED by ann: stuck"),
    "attempt_started": ({"step_key": "gather[3]/charge", "attempt": 2}, "gather[3]/charge attempt 2 started"),
    "attempt_succeeded": ({"step_key": "charge", "attempt": 2}, "charge attempt 2 succeeded with nothing"),
    "attempt_failed": (
        {
            "step_key": "send_mail[3]",
            "attempt": 2,
            "failure": {"kind": "FAILURE_KIND_TRANSIENT", "type": "builtins.ConnectionRefusedError", "message": "x"},
            "decision": {
                "action": "RETRY_ACTION_RETRY",
                "reason": "RETRY_REASON_BACKOFF",
                "delay": "0.8s",
                "attempts_left": 3,
            },
        },
        ("send_mail[3] attempt 2 failed: ConnectionRefusedError: x (transient); retries in 0.80 s (backoff, 3 left)"),
    ),
    "timer_started": ({"key": "sleep", "fire_time": "2030-01-02T03:04:05Z"}, "sleep until 2030-01-02 03:04:05Z"),
    "timer_fired": ({"key": "sleep"}, "sleep fired"),
    "signal_received": (
        {"name": "go", "data": {"json": "1"}, "undelivered": True},
        "go received with 1, too late to deliver",
    ),
    "signal_awaited": (
        {"name": "go", "deadline": "2030-01-02T03:04:05Z"},
        "waits for signal go until 2030-01-02 03:04:05Z",
    ),
    "signal_taken": ({"key": "signal:go", "signal_sequence": "4"}, "signal:go took the signal of event 4"),
    "signal_timed_out": ({"key": "signal:go"}, "signal:go timed out"),
    "call_cancelled": ({"key": "charge"}, "charge cancelled"),
    "value_recorded": ({"key": "now", "value": {"json": "5"}}, "now is 5"),
    "progress_reported": (
        {"step_key": "send", "done": "3", "total": "9", "message": "item 2"},
        "send progress 3 of 9 item 2",
    ),
    "alert_raised": ({"name": "workflow_paused", "message": "look"}, "ALERT workflow_paused: look"),
}


@pytest.mark.parametrize("detail", DETAILS)
def test_every_kind_of_event_has_its_words(detail: str) -> None:
    assert detail in LINES, f"LINES has no entry for {detail}"
    content, words = LINES[detail]
    line = describe_event(event_of(detail, content))
    assert line.startswith("#7    2030-01-01 12:00:01.233Z  ")
    assert words in line
    empty = describe_event(event_of(detail, {}))
    assert "unknown to" not in empty
    assert "\n" not in empty


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("RETRY_REASON_LOST", "retries at once with the same idempotency key"),
        ("RETRY_REASON_SUSPECTED", "will retry in isolation"),
    ],
)
def test_a_lost_attempt_is_shown_as_lost_and_not_as_failed(reason: str, words: str) -> None:
    content = {
        "step_key": "charge",
        "attempt": 1,
        "failure": {"kind": "FAILURE_KIND_LOST", "message": "an internal error of the server ended this attempt: x"},
        "decision": {"action": "RETRY_ACTION_RETRY", "reason": reason, "delay": "0s"},
    }
    line = describe_event(event_of("attempt_failed", content))
    assert "charge attempt 1 lost: an internal error of the server ended this attempt: x" in line
    assert words in line
    assert "failed" not in line


def test_a_lost_attempt_without_a_message_is_shown_as_lost() -> None:
    content = {"step_key": "charge", "attempt": 1, "failure": {"kind": "FAILURE_KIND_LOST"}}
    assert "charge attempt 1 lost;" in describe_event(event_of("attempt_failed", content))


def test_the_last_retry_shows_that_none_is_left() -> None:
    content = {"decision": {"action": "RETRY_ACTION_RETRY", "delay": "1s", "attempts_left": 0}}
    assert ", 0 left)" in describe_event(event_of("attempt_failed", content))


def test_without_a_limit_no_number_of_retries_is_shown() -> None:
    assert "left" not in describe_event(event_of("attempt_failed", {"decision": {"action": "RETRY_ACTION_RETRY"}}))


def test_causes_are_shown_nearest_first() -> None:
    cause = {"type": "b.Middle", "message": "m", "cause": {"type": "c.Root", "message": "r"}}
    event = event_of("workflow_failed", {"failure": {"type": "a.Top", "message": "t", "cause": cause}})
    assert [line.split(" (")[0] for line in describe_causes(event)] == ["caused by Middle: m", "caused by Root: r"]
    assert not list(describe_causes(event_of("timer_fired", {})))


def test_an_event_of_a_newer_server_is_shown_as_far_as_it_is_known() -> None:
    assert describe_event(newer_event()).endswith("kind 99: unknown to this version")
    assert not list(describe_causes(newer_event()))
    event = event_pb2.Event(sequence=1)
    failed = event.attempt_failed
    failed.failure.kind = 99  # type: ignore[assignment]
    failed.decision.action = failure_pb2.RETRY_ACTION_RETRY
    failed.decision.reason = 98  # type: ignore[assignment]
    assert "99" in describe_event(event)
    assert "98" in describe_event(event)
    failed.decision.action = 97  # type: ignore[assignment]
    assert "97" in describe_event(event)
    event.workflow_paused.reason = 96  # type: ignore[assignment]
    assert "96" in describe_event(event)
    assert "95" in state_name(95)


@given(st.text())
def test_no_text_reaches_a_terminal_with_its_control_characters(text: str) -> None:
    # Remove what a protobuf string cannot hold.
    text = text.encode(errors="replace").decode()
    event = event_of("workflow_failed", {"failure": {"type": text, "message": text}})
    for line in (describe_event(event), clean(text)):
        assert not {unicodedata.category(char) for char in line} & {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}
    assert all(char in clean(text) for char in text if char.isprintable())


def test_a_long_value_is_shortened_with_its_length() -> None:
    assert len(describe_payload(Payload(json='"' + "x" * 10_000 + '"'))) < 200
    assert "10002 characters" in describe_payload(Payload(json='"' + "x" * 10_000 + '"'))
