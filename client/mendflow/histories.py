"""The file format of a history, which `mendflow export` writes and `mendflow.testing.replay` reads.

The file is JSON, with a layout that line-based diffs can compare::

    {
      "format": "mendflow.history/1",
      "workflow_id": "order-17",
      "workflow_type": "place_order",
      "events": [
        {"sequence": "1", "time": "2030-01-31T12:00:00.000001Z", "workflow_started": {...}},
        {"sequence": "2", "kind": "attempt_started", "bytes": "CAISDA..."}
      ]
    }

An event is the protobuf JSON of ``mendflow.v1.Event`` if that is exact. Otherwise ``bytes`` has the serialized event in
base64. This is the case if a payload is a message, because a reader may not know its type, and if a newer server wrote
fields that this version does not know.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from mendflow.errors import MendflowError
from mendflow.v1 import event_pb2, payload_pb2

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

__all__ = ["FORMAT", "BadHistory", "History", "history_text", "read_history"]

FORMAT: Final = "mendflow.history/1"


class BadHistory(MendflowError):
    """A file is not a valid exported history. The message has the reason."""


class History(NamedTuple):
    """An exported history."""

    workflow_id: str
    workflow_type: str
    #: The serialized events, in order.
    events: list[bytes]


def history_text(workflow_id: str, workflow_type: str, events: Iterable[event_pb2.Event]) -> str:
    """Return the text of a history file."""
    whole = {
        "format": FORMAT,
        "workflow_id": workflow_id,
        "workflow_type": workflow_type,
        "events": [_to_json(event) for event in events],
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def read_history(source: str | os.PathLike[str] | Mapping[str, Any]) -> History:
    """Read a history from a file's path, or from a file's parsed content. Raise `BadHistory` if it is invalid."""
    if isinstance(source, Mapping):
        return _of_json(source, "the history")
    path = Path(source)
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BadHistory(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadHistory(f"{path} is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise BadHistory(f"{path} is not a history: it must be a JSON object")
    return _of_json(found, str(path))


def _of_json(found: Mapping[str, Any], name: str) -> History:
    if found.get("format") != FORMAT:
        raise BadHistory(f"{name} is not a history: its format must be {FORMAT!r}, not {found.get('format')!r}")
    workflow_id, workflow_type, events = (found.get(key) for key in ("workflow_id", "workflow_type", "events"))
    if not isinstance(workflow_id, str) or not isinstance(workflow_type, str) or not isinstance(events, list):
        raise BadHistory(f"{name} is not a history: it must have workflow_id, workflow_type and events")
    read = [_event(event, f"{name}: event {number}") for number, event in enumerate(events, start=1)]
    for number, event in enumerate(read, start=1):
        if event.sequence != number:
            raise BadHistory(f"{name}: event {number} must have the sequence {number}, not {event.sequence}")
    return History(workflow_id, workflow_type, [_bytes(event) for event in read])


def _event(found: object, name: str) -> event_pb2.Event:
    if not isinstance(found, Mapping):
        raise BadHistory(f"{name} cannot be read: it must be a JSON object")
    try:
        if "bytes" in found:
            return event_pb2.Event.FromString(base64.b64decode(found["bytes"], validate=True))
        return json_format.ParseDict(dict(found), event_pb2.Event())
    except (TypeError, ValueError, binascii.Error, DecodeError, json_format.Error) as error:
        raise BadHistory(f"{name} cannot be read: {error}") from error


def _to_json(event: event_pb2.Event) -> dict[str, Any]:
    shown = None if _has_message(event) else _exact_json(event)
    return shown or {
        "sequence": str(event.sequence),
        "kind": event.WhichOneof("detail") or "",
        "bytes": base64.b64encode(_bytes(event)).decode(),
    }


def _exact_json(event: event_pb2.Event) -> dict[str, Any] | None:
    """Return the event's protobuf JSON, or None if it would lose data."""
    try:
        shown: dict[str, Any] = json_format.MessageToDict(event, preserving_proto_field_name=True)
        again = json_format.ParseDict(shown, event_pb2.Event())
    except (ValueError, json_format.Error):
        return None
    return shown if _bytes(again) == _bytes(event) else None


def _bytes(event: event_pb2.Event) -> bytes:
    return event.SerializeToString(deterministic=True)


def _has_message(message: Message) -> bool:
    """Return True if ``message`` has a payload with a message, whose type another process may not know."""
    if isinstance(message, payload_pb2.Payload):
        return message.HasField("message")
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if any(_has_message(each) for each in ([value] if isinstance(value, Message) else value)):
            return True
    return False
