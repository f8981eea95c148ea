"""Events for tests of what the command line prints."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from mendflow.v1 import event_pb2

HOSTILE = "\x1b]0;owned\x07\r\n\u202e\u2028[/bold][red]"


def event_of(detail: str, content: dict[str, Any], sequence: int = 7) -> event_pb2.Event:
    return json_format.ParseDict(
        {"sequence": str(sequence), "time": "2030-01-01T12:00:01.233456Z", detail: content}, event_pb2.Event()
    )


def newer_event() -> event_pb2.Event:
    """Return an event whose detail is field 99, as a newer server might write it."""
    return event_pb2.Event.FromString(b"\x08\x05" + b"\x9a\x06\x00")
