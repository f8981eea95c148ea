"""Page tokens: where the next page begins, and of which question.

A token is URL-safe base64 of a version, the verb, a hash of the question it
was given out for, the cursor, and a checksum. It holds no secret and grants
nothing: a forged one could only name a place in a list that the caller may
read anyway. It depends on no process, so any replica takes it.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import json
import struct
from typing import TYPE_CHECKING, Final

from mendflow_server.errors import InvalidPageToken
from mendflow_server.store.records import Cursor

if TYPE_CHECKING:
    from mendflow_server.store.records import Filter

__all__ = [
    "events_cursor",
    "events_token",
    "types_cursor",
    "types_token",
    "workflows_cursor",
    "workflows_token",
]

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BB8s")
_CHECKSUM: Final = 4
_LONGEST: Final = 1_000
# Signed, as the store's numbers are.
_WORKFLOWS_CURSOR: Final = struct.Struct(">qq")
_EVENTS_CURSOR: Final = struct.Struct(">q")


class _Verb(enum.IntEnum):
    """The list that a token goes on with."""

    WORKFLOWS = 1
    EVENTS = 2
    TYPES = 3


def workflows_token(condition: Filter, cursor: Cursor) -> str:
    """Answer the token for the page of this filter after ``cursor``."""
    return _seal(_Verb.WORKFLOWS, _filter_text(condition), _WORKFLOWS_CURSOR.pack(cursor.create_time, cursor.key))


def workflows_cursor(condition: Filter, token: str) -> Cursor | None:
    """Answer where the page begins; None is the beginning. Raises `InvalidPageToken`."""
    if not token:
        return None
    create_time, key = _unpack(_WORKFLOWS_CURSOR, _open(_Verb.WORKFLOWS, _filter_text(condition), token))
    return Cursor(create_time, key)


def events_token(uid: str, after_sequence: int) -> str:
    """Answer the token for the page of this execution's events after a sequence."""
    return _seal(_Verb.EVENTS, uid, _EVENTS_CURSOR.pack(after_sequence))


def events_cursor(uid: str, token: str) -> int:
    """Answer the sequence after which the page begins. Raises `InvalidPageToken`."""
    if not token:
        return 0
    return _unpack(_EVENTS_CURSOR, _open(_Verb.EVENTS, uid, token))[0]


def types_token(name: str) -> str:
    """Answer the token for the page of workflow types after a name."""
    return _seal(_Verb.TYPES, "", name.encode())


def types_cursor(token: str) -> str:
    """Answer the name after which the page begins. Raises `InvalidPageToken`."""
    if not token:
        return ""
    return _open(_Verb.TYPES, "", token).decode("utf-8", "replace")


def _seal(verb: _Verb, question: str, cursor: bytes) -> str:
    content = _HEAD.pack(_VERSION, verb, _hash(question, 8)) + cursor
    return _encode(content + _checksum(content))


def _open(verb: _Verb, question: str, token: str) -> bytes:
    if len(token) > _LONGEST:
        raise InvalidPageToken
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidPageToken from error
    content, checksum = sealed[:-_CHECKSUM], sealed[-_CHECKSUM:]
    # Encoded again, since several texts decode to the same bytes.
    if len(content) < _HEAD.size or checksum != _checksum(content) or _encode(sealed) != token:
        raise InvalidPageToken
    version, given_verb, given_hash = _HEAD.unpack_from(content)
    if version != _VERSION:
        raise InvalidPageToken("given out by another version of the server; begin with the first page")
    if given_verb != verb or given_hash != _hash(question, 8):
        raise InvalidPageToken("given out for another list or other conditions; begin with the first page")
    return content[_HEAD.size :]


def _unpack(layout: struct.Struct, cursor: bytes) -> tuple[int, ...]:
    """Answer the numbers; the last one is a key or a sequence, never negative."""
    try:
        numbers = layout.unpack(cursor)
    except struct.error as error:
        raise InvalidPageToken from error
    if numbers[-1] < 0:
        raise InvalidPageToken
    return numbers


def _filter_text(condition: Filter) -> str:
    return json.dumps(
        [
            condition.workflow_type,
            sorted(condition.states),
            sorted(condition.labels),
            condition.create_time_from,
            condition.create_time_until,
        ]
    )


def _encode(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM, person=b"mendflow-page").digest()


def _hash(question: str, size: int) -> bytes:
    return hashlib.blake2b(question.encode(), digest_size=size, person=b"mendflow-list").digest()
