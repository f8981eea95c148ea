"""Page tokens: each names the place where the next page of one list begins.

A token is URL-safe base64 of a version, the kind of list, a hash of the filter that it was issued for, the cursor, and
a checksum. It holds no secret and grants no access. A forged token can only name a place in a list that the caller may
read anyway. A token does not depend on a process, so any replica accepts it.
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
#: The version, the kind of list, and the hash of the filter.
_HEAD: Final = struct.Struct(">BB8s")
#: Bytes of the hash and of the checksum.
_HASH: Final = 8
_CHECKSUM: Final = 4
#: The most characters of a token.
_LONGEST: Final = 1_000
# Signed, like the store's numbers.
_WORKFLOWS_CURSOR: Final = struct.Struct(">qq")
_EVENTS_CURSOR: Final = struct.Struct(">q")


class _List(enum.IntEnum):
    """The kind of list that a token continues."""

    WORKFLOWS = 1
    EVENTS = 2
    TYPES = 3


def workflows_token(condition: Filter, cursor: Cursor) -> str:
    """Return the token of the page of this filter that follows ``cursor``."""
    return _seal(_List.WORKFLOWS, _filter_text(condition), _WORKFLOWS_CURSOR.pack(cursor.create_time, cursor.key))


def workflows_cursor(condition: Filter, token: str) -> Cursor | None:
    """Return the cursor that the page follows, None for the first page. Raise `InvalidPageToken`."""
    if not token:
        return None
    create_time, key = _unpack(_WORKFLOWS_CURSOR, _open(_List.WORKFLOWS, _filter_text(condition), token))
    return Cursor(create_time, key)


def events_token(uid: str, after_sequence: int) -> str:
    """Return the token of the page of this workflow's events that follows a sequence."""
    return _seal(_List.EVENTS, uid, _EVENTS_CURSOR.pack(after_sequence))


def events_cursor(uid: str, token: str) -> int:
    """Return the sequence that the page follows, 0 for the first page. Raise `InvalidPageToken`."""
    if not token:
        return 0
    return _unpack(_EVENTS_CURSOR, _open(_List.EVENTS, uid, token))[0]


def types_token(name: str) -> str:
    """Return the token of the page of workflow types that follows a name."""
    return _seal(_List.TYPES, "", name.encode())


def types_cursor(token: str) -> str:
    """Return the name that the page follows, "" for the first page. Raise `InvalidPageToken`."""
    if not token:
        return ""
    return _open(_List.TYPES, "", token).decode("utf-8", "replace")


def _seal(kind: _List, scope: str, cursor: bytes) -> str:
    content = _HEAD.pack(_VERSION, kind, _hash(scope)) + cursor
    return _encode(content + _checksum(content))


def _open(kind: _List, scope: str, token: str) -> bytes:
    if len(token) > _LONGEST:
        raise InvalidPageToken
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidPageToken from error
    content, checksum = sealed[:-_CHECKSUM], sealed[-_CHECKSUM:]
    # Several texts decode to the same bytes; only the one that was issued is accepted.
    if len(content) < _HEAD.size or checksum != _checksum(content) or _encode(sealed) != token:
        raise InvalidPageToken
    version, token_kind, token_hash = _HEAD.unpack_from(content)
    if version != _VERSION:
        raise InvalidPageToken("was issued by another version of the server; restart from the first page")
    if token_kind != kind or token_hash != _hash(scope):
        raise InvalidPageToken("was issued for another list or filter; restart from the first page")
    return content[_HEAD.size :]


def _unpack(layout: struct.Struct, cursor: bytes) -> tuple[int, ...]:
    """Return the numbers of a cursor. The last one is a key or a sequence, which is never negative."""
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


def _hash(scope: str) -> bytes:
    return hashlib.blake2b(scope.encode(), digest_size=_HASH, person=b"mendflow-list").digest()
