"""An event in one line: every kind has its words, and no control character gets through."""

from __future__ import annotations

from typing import Any

import pytest

from mendflow.cli.event_text import describe_event
from mendflow.v1 import event_pb2

KINDS = [field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_words(kind: str) -> None:
    event = event_pb2.Event(sequence=7)
    getattr(event, kind).SetInParent()
    line = describe_event(event)
    assert line.startswith("#7 ")
    assert "does not know" not in line
    assert "\n" not in line


def test_a_kind_of_a_newer_server_is_shown_too() -> None:
    # Field 99 of Event, as in a newer contract.
    event = event_pb2.Event.FromString(event_pb2.Event(sequence=3).SerializeToString() + b"\x9a\x06\x00")
    assert describe_event(event).endswith("unknown to this version")


@pytest.mark.parametrize("hostile", ["\x1b[2J", "a\nb", "a\rb", "\x07", "\u202e", "\x9b31m"])
def test_control_characters_do_not_reach_a_terminal(hostile: str) -> None:
    event = event_pb2.Event(sequence=1)
    event.alert_raised.name = "alert"
    event.alert_raised.message = hostile
    assert hostile not in describe_event(event)
    assert describe_event(event).isprintable()


def test_a_retry_says_when_and_why() -> None:
    event = event_pb2.Event(sequence=1)
    failed: Any = event.attempt_failed
    failed.step_key, failed.attempt = "charge", 2
    failed.failure.type, failed.failure.message, failed.failure.kind = "builtins.ConnectionError", "refused", 1
    failed.decision.action, failed.decision.reason, failed.decision.attempts_left = 1, 1, 3
    failed.decision.delay.nanos = 250_000_000
    line = describe_event(event)
    assert "charge attempt 2 failed: ConnectionError: refused (transient); retries in 0.25 s (backoff, 3 left)" in line
