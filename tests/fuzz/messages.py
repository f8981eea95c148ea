"""Strategies for messages, built from their descriptors, so that a new field is covered without more work.

A message is made of valid pieces, of wild ones, or of both. Text that begins
with ``@`` stands for a value that only the running server knows: see tests/fuzz/world.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from mendflow.v1.event_pb2 import EventKind
from mendflow.v1.payload_pb2 import Payload
from mendflow.v1.workflow_pb2 import WorkflowState
from mendflow.v1.workflow_service_pb2 import SignalWorkflowRequest, StartWorkflowRequest
from mendflow_server.api.page_tokens import types_token
from tests.fuzz.contract import SERVICES
from tests.fuzz.served import LEFT_OUT, SERVED
from tests.fuzz.world import FRESH, KINDS, SIGNALLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message
    from hypothesis.strategies import SearchStrategy

#: The limit of the server under test, which refuses larger messages.
PAYLOAD_LIMIT = 20_000
REQUEST_LIMIT = 100_000

INT64 = (-(2**63), 2**63 - 1)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: INT64,
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_NASTY = [
    "",
    " ",
    "\0",
    "a\0b",
    "\x7f\x1b[31m",
    "\r\n",
    "id\n",
    "%00%",
    "'; DROP TABLE workflows; --",
    "../../etc/passwd",
    "\u202eright to left",
    "\ufeff\ufffe\uffff",
    "\U0010ffff" * 3,
    "é́",
    "\uff10\uff11",
    "{}",
    "null",
    "@",
    "a" * 200,
    "a" * 201,
    "é" * 1_001,
    "x" * (PAYLOAD_LIMIT + 1),
]
any_text = st.one_of(
    st.sampled_from(_NASTY),
    st.text(max_size=20),
    st.text(st.characters(max_codepoint=0x20), min_size=1, max_size=4),
    st.text("aZ0._:/@+-", min_size=1, max_size=8),
)
any_bytes = st.one_of(st.sampled_from([b"", b"\0", b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f"]), st.binary(max_size=20))

_scalar_json = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.05, 1e300, -1.5, 2**53 + 1, -(10**30), 10**25, 3.2e9, 1e-320]),
    any_text,
)
_values = st.recursive(
    _scalar_json,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(any_text, inner, max_size=4)),
    max_leaves=8,
)
_ODD_JSON = [
    "",
    " ",
    "{",
    "NaN",
    "[Infinity]",
    "1e400",
    "-0",
    "1" * 5_000,
    "[" * 5_000,
    "[" * 200 + "]" * 200,
    '{"a":' * 500 + "1" + "}" * 500,
    '{"a": 1, "a": 2}',
    '"\\ud800"',
    '"\\u0000"',
    "'single'",
    "\ufeff1",
    "1 2",
    "tru",
    '"' + "x" * PAYLOAD_LIMIT + '"',
]
_json_texts = st.one_of(_values.map(json.dumps), st.sampled_from(_ODD_JSON), any_text)

_SHAPE = {"when": "2024-02-29T12:00:00Z", "colour": "red"}
_odd_shapes = st.builds(
    lambda base, extra: json.dumps(base | extra),
    st.just(_SHAPE),
    st.fixed_dictionaries(
        {},
        optional={
            "when": st.sampled_from(["0001-01-01", "9999-12-31T23:59:59+14:00", 1e18, -1e300, "now", ""]),
            "colour": _values,
            "lasts": st.sampled_from(["P99999999999D", "PT0.0000001S", 1e300, -5, "PT"]),
            "part": st.recursive(
                st.just({"name": "x"}),
                lambda p: st.builds(lambda w, ps: {"name": "y", "weight": w, "parts": ps}, _scalar_json, st.lists(p)),
            ),
            "by_name": st.dictionaries(any_text, _scalar_json, max_size=3),
            "pair": _values,
            "kinds": st.lists(any_text, max_size=3),
        },
    ),
)
_message_payloads = st.builds(
    lambda url, value: Payload(message=AnyMessage(type_url=url, value=value)),
    st.one_of(
        st.sampled_from(
            [
                "type.googleapis.com/mendflow.v1.Payload",
                "type.googleapis.com/google.protobuf.Duration",
                "https://elsewhere/a/b/mendflow.v1.Payload",
                "mendflow.v1.Payload",
                "/",
                "type.googleapis.com/",
                "type.googleapis.com/no.Such",
            ]
        ),
        any_text,
    ),
    st.one_of(
        any_bytes,
        st.builds(
            lambda s, n: Duration(seconds=s, nanos=n).SerializeToString(), st.integers(*INT64), st.integers(0, 9)
        ),
        _json_texts.map(lambda text: Payload(json=text).SerializeToString()),
    ),
)
_payloads = st.one_of(_json_texts.map(lambda text: Payload(json=text)), _message_payloads, st.just(Payload()))

_seconds = st.one_of(
    st.sampled_from([0, 0.01, 0.5, 3600, 1e300, -1, 3_155_760_000, 3_155_760_000.5, 1e18]), st.floats(0, 0.05)
)
#: Inputs that fit, or nearly fit, types that would otherwise hardly ever get one.
_INPUTS: dict[str, SearchStrategy[Any]] = {
    "typed": st.builds(
        lambda amount, items: {"id": "i", "amount": amount, "items": items},
        st.sampled_from([0, -1, 2**63, 10**30]),
        st.lists(any_text, max_size=3),
    ),
    "retried": st.sampled_from([0, 2, -5, 10**30]),
    "long": st.sampled_from([0, 5, 20]),
    "branches": st.lists(_seconds, max_size=3),
    "forbidden": st.sampled_from(["asyncio.sleep", "bare", "task", "future", "timeout", "no"]),
    **dict.fromkeys(
        ("sleeper", "holds", "cleans_up", "survives_cancel", "signal_or_timeout", "reports_progress"), _seconds
    ),
}


def _valid_input(name: str) -> SearchStrategy[Payload | None]:
    if name == "message":
        return _message_payloads
    if name == "message_or_none":
        return st.one_of(_message_payloads, st.just(Payload(json='"1.5s"')), st.none())
    if name == "shaped":
        return _odd_shapes.map(lambda text: Payload(json=text))
    input_type = SERVED[name].input_type
    if input_type is None:
        return st.none()
    return _INPUTS.get(name, any_text if name != "anything" else _values).map(lambda v: Payload(json=json.dumps(v)))


@st.composite
def _good_starts(draw: Any) -> StartWorkflowRequest:
    """Draw a start that reaches the workflow's code, if nothing else is wrong with it."""
    name = draw(st.sampled_from(sorted(SERVED)))
    request = StartWorkflowRequest(workflow_type=name, workflow_id=draw(_start_ids))
    payload = draw(_valid_input(name))
    if payload is not None:
        request.input.CopyFrom(payload)
    return request


@st.composite
def _without_wait(draw: Any) -> StartWorkflowRequest:
    """Draw any start, as a batch may hold it."""
    request = draw(messages(StartWorkflowRequest.DESCRIPTOR, 3))
    request.ClearField("wait")
    return request  # type: ignore[no-any-return]


#: ``@token`` is one that the server gave out for this request. A forged one is well-formed, but leads anywhere.
_forged_tokens = st.builds(
    lambda time, key: f"@forged:{time}:{key}",
    st.sampled_from([10**16, 0, *INT64]),
    st.sampled_from([-1, -(2**63), 2**63 - 1, 1, 0]),
)
_tokens = st.one_of(
    st.sampled_from(["", "@token", "@token"]),
    _forged_tokens,
    _forged_tokens,
    st.sampled_from(["m", "é"]).map(types_token),
)
_ids = st.sampled_from([f"@{kind}" for kind in KINDS] + list(FRESH))
_start_ids = st.one_of(st.sampled_from(FRESH), st.sampled_from(FRESH), _ids)
_small_ids = st.sampled_from(["", "r1", "r2"])
#: Valid pieces by a field's name. Other fields get what their type allows, which may be valid too.
_VALID: dict[str, SearchStrategy[Any]] = {
    "workflow_id": _ids,
    "workflow_type": st.sampled_from([*sorted(SERVED), LEFT_OUT.name, ""]),
    "request_id": _small_ids,
    "reason": st.sampled_from(["", "why not", "é" * 1_000]),
    "name": st.sampled_from(["go", "shape", "message", "number", "any", "other"]),
    "page_token": _tokens,
    "page_size": st.integers(0, 3),
    "after_sequence": st.integers(0, 3),
    "input": _payloads,
    "data": st.one_of(_payloads, _odd_shapes.map(lambda text: Payload(json=text)), st.just(Payload(json="7"))),
    "labels": st.dictionaries(st.sampled_from(["team", "a/b.c-d_e"]), st.sampled_from(["", "x", "é"]), max_size=2),
    "wait": st.sampled_from([Duration(), Duration(nanos=1), Duration(nanos=20_000_000)]),
    "service": st.sampled_from(["", "liveness", *(service.full_name for service in SERVICES)]),
    "kinds": st.lists(st.sampled_from(EventKind.values()[1:]), max_size=6),
    "states": st.lists(st.sampled_from(WorkflowState.values()[1:]), max_size=6),
    "requests": st.lists(st.one_of(_good_starts(), _without_wait()), min_size=1, max_size=6),
    "create_time_from": st.builds(Timestamp, seconds=st.sampled_from([0, -62_135_596_800, 1_700_000_000])),
    "create_time_until": st.builds(
        Timestamp, seconds=st.sampled_from([1_700_000_000, 253_402_300_799]), nanos=st.sampled_from([0, 1, 999_999_999])
    ),
    "host": st.just(""),
    "file_by_filename": st.sampled_from(["mendflow/v1/event.proto", "grpc/health/v1/health.proto"]),
    "file_containing_symbol": st.sampled_from(["mendflow.v1.Event", "mendflow.v1.WorkflowService.GetWorkflow"]),
    "containing_type": st.sampled_from(["google.protobuf.FieldOptions", "mendflow.v1.Event"]),
    "all_extension_numbers_of_type": st.sampled_from(["google.protobuf.FieldOptions", "mendflow.v1.Event"]),
}


def _scalars(field: FieldDescriptor) -> SearchStrategy[Any]:
    if field.enum_type is not None:
        numbers = sorted(field.enum_type.values_by_number)
        return st.one_of(st.sampled_from(numbers), st.sampled_from([-1, 999, 2**31 - 1, -(2**31)]))
    if field.type == FieldDescriptor.TYPE_STRING:
        return any_text
    if field.type == FieldDescriptor.TYPE_BYTES:
        return any_bytes
    if field.cpp_type in _RANGES:
        low, high = _RANGES[field.cpp_type]
        return st.one_of(st.sampled_from([low, high, 0, 1, 10**9, low // 1000, high // 1000]), st.integers(low, high))
    return st.booleans() if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else st.floats(width=32)


def _singles(field: FieldDescriptor, depth: int) -> SearchStrategy[Any]:
    return messages(field.message_type, depth - 1) if field.message_type is not None else _scalars(field)


def _wild(field: FieldDescriptor, depth: int) -> SearchStrategy[Any]:
    """Return a strategy for everything that the field's type allows."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        entries = st.dictionaries(_scalars(key), _singles(value, depth), max_size=3)
        many = st.integers(33, 40).map(lambda count: {f"label-{index}": "" for index in range(count)})
        return st.one_of(entries, many) if key.type == value.type == FieldDescriptor.TYPE_STRING else entries
    single = _singles(field, depth)
    if not field.is_repeated:
        return single
    doubled = st.lists(single, min_size=1, max_size=2).map(lambda some: some * 12)
    return st.one_of(st.lists(single, max_size=4), doubled)


def _valid(field: FieldDescriptor, depth: int) -> SearchStrategy[Any]:
    """Return a strategy for a piece that is right, where one is known."""
    return _VALID[field.name] if field.name in _VALID else _wild(field, depth)


def put(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set a field of any kind."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries = getattr(message, field.name)
        for key, each in value.items():
            if field.message_type.fields_by_name["value"].message_type is not None:
                entries[key].CopyFrom(each)
            else:
                entries[key] = each
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


@st.composite
def _good_signals(draw: Any) -> SignalWorkflowRequest:
    """Draw a signal that is accepted, if nothing else is wrong with it and there is room for it."""
    return SignalWorkflowRequest(
        workflow_id=draw(st.sampled_from([f"@{kind}" for kind in SIGNALLED])),
        name=draw(st.sampled_from(["go", "any", "other"])),
        data=draw(st.sampled_from([Payload(json='"on"'), Payload(json='""')])),
        request_id=draw(_small_ids),
        allow_undeclared=draw(st.sampled_from([True, True, True, False])),
    )


#: Good parts by the message's name. These fields keep them unless they are to be wild.
_BEGUN: dict[str, tuple[SearchStrategy[Any], tuple[str, ...]]] = {
    StartWorkflowRequest.DESCRIPTOR.full_name: (_good_starts(), ("workflow_id", "workflow_type", "input")),
    SignalWorkflowRequest.DESCRIPTOR.full_name: (
        _good_signals(),
        ("workflow_id", "name", "data", "request_id", "allow_undeclared"),
    ),
}


@st.composite
def messages(draw: Callable[[SearchStrategy[Any]], Any], descriptor: Any, depth: int = 4) -> Message:
    """Draw a message of this type: valid, with one or two wild fields, or wild throughout."""
    fields = list(descriptor.fields)
    begun, good = _BEGUN.get(descriptor.full_name, (None, ()))
    message: Message = message_factory.GetMessageClass(descriptor)() if begun is None else draw(begun)
    wild = draw(st.sampled_from([0, 0, 0, 1, 1, 2, len(fields)])) if fields else 0
    chosen = draw(st.lists(st.sampled_from(fields), max_size=wild, unique_by=lambda each: each.name)) if wild else []
    for field in fields if depth else []:
        if field in chosen:
            value = draw(_wild(field, depth))
        elif field.name in good or draw(st.integers(0, 7)) < (1 if field.name in _VALID else 5):
            continue
        else:
            value = draw(_valid(field, depth))
        message.ClearField(field.name)
        put(message, field, value)
    if wild > 1 and draw(st.booleans()):
        _merge(message, draw(unknown_fields))
    return message


def _merge(message: Message, data: bytes) -> None:
    """Merge the bytes, as far as they can be parsed."""
    before = message.SerializeToString()
    try:
        message.MergeFromString(data)
    except DecodeError:
        message.ParseFromString(before)


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    number %= 1 << 64
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _wire_field(number: int, kind: int, value: int, content: bytes) -> bytes:
    body = {0: varint(value), 1: bytes(8), 2: varint(len(content)) + content, 5: bytes(4)}[kind]
    return varint(number << 3 | kind) + body


#: Fields on the wire, of any number and wire type: unknown, doubled, or of a wrong type.
unknown_fields = st.lists(
    st.builds(
        _wire_field,
        st.one_of(st.integers(1, 8), st.sampled_from([19_000, 536_870_911])),
        st.sampled_from([0, 1, 2, 5]),
        st.integers(*INT64),
        any_bytes,
    ),
    min_size=1,
    max_size=4,
).map(b"".join)
