"""Comparison and measurement of payloads without their types."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from mendflow.codec.problems import path_of, strict_json

if TYPE_CHECKING:
    from mendflow.v1 import payload_pb2

#: How much of a payload an error message shows, in characters.
LONGEST_SHOWN = 300


def payload_size(payload: payload_pb2.Payload | None) -> int:
    """Return the size of the value in bytes."""
    kind = None if payload is None else payload.WhichOneof("kind")
    if payload is None or kind is None:
        return 0
    if kind == "message":
        return len(payload.message.value)
    text = payload.json
    return len(text) if text.isascii() else len(text.encode())


def oversize(payload: payload_pb2.Payload, limit: int) -> int:
    """Return the size of the value in bytes if it exceeds the limit, else 0."""
    # ByteSize is cheap, and never smaller than the value's size.
    size = payload_size(payload) if payload.ByteSize() > limit else 0
    return size if size > limit else 0


def same_payload(a: payload_pb2.Payload | None, b: payload_pb2.Payload | None) -> bool:
    """Return True if two payloads have the same value.

    JSON is compared after parsing: the order of an object's members does not
    matter, and 1 equals 1.0 (exactly, with any number of digits) but not true.
    Messages are compared by type URL and bytes. JSON that cannot be parsed
    equals only the same text.
    """
    if _is_message(a) or _is_message(b):
        return _is_message(a) and _is_message(b) and _message(a) == _message(b)
    text_a, text_b = _json(a), _json(b)
    if text_a == text_b:
        return True
    try:
        return _same(_parsed(text_a), _parsed(text_b))
    except (ValueError, RecursionError):
        return False


def lost_member(recorded: payload_pb2.Payload | None, kept: payload_pb2.Payload | None) -> str:
    """Return the path of the first member of ``recorded`` that is missing in ``kept``, or "" if none is missing.

    Both must be valid JSON.
    """
    if _is_message(recorded) or _is_message(kept):
        return ""
    waiting: list[tuple[Any, Any, tuple[int | str, ...]]] = [(_parsed(_json(recorded)), _parsed(_json(kept)), ())]
    while waiting:
        before, after, places = waiting.pop()
        if isinstance(before, dict) and isinstance(after, dict):
            for name in before:
                if name not in after:
                    return path_of((*places, name))
            waiting.extend((before[name], after[name], (*places, name)) for name in before)
        elif isinstance(before, list) and isinstance(after, list):
            pairs = zip(before, after, strict=False)
            waiting.extend((a, b, (*places, index)) for index, (a, b) in enumerate(pairs))
    return ""


def shown(payload: payload_pb2.Payload | None) -> str:
    """Return a payload as text for an error message, truncated to `LONGEST_SHOWN` characters."""
    if payload is None or not payload.WhichOneof("kind"):
        return "nothing"
    text = payload.json or f"{payload.message.type_url} ({len(payload.message.value)} bytes)"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _is_message(payload: payload_pb2.Payload | None) -> bool:
    return payload is not None and payload.HasField("message")


def _message(payload: payload_pb2.Payload | None) -> tuple[str, bytes]:
    return ("", b"") if payload is None else (payload.message.type_url, payload.message.value)


def _json(payload: payload_pb2.Payload | None) -> str:
    return payload.json if payload is not None and payload.HasField("json") else "null"


def _parsed(text: str) -> Any:
    return strict_json(text, parse_int=_number, parse_float=_number)


def _number(text: str) -> Decimal | tuple[str]:
    # Decimal is exact and linear in the digits. A number with too large an exponent is compared as text.
    try:
        return Decimal(text)
    except InvalidOperation:
        return (text,)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(member, b[name]) for name, member in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
