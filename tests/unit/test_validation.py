"""Validation of requests: each rule of the contract's comments, at its limit and one beyond."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mendflow import workflow
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow.v1.operator_service_pb2 import ResumeWorkflowRequest
from mendflow.v1.payload_pb2 import Payload
from mendflow.v1.workflow_service_pb2 import (
    BatchStartWorkflowsRequest,
    CancelWorkflowRequest,
    GetWorkflowRequest,
    ListEventsRequest,
    ListWorkflowsRequest,
    ListWorkflowTypesRequest,
    SignalWorkflowRequest,
    StartWorkflowRequest,
    WatchWorkflowRequest,
)
from mendflow_server import errors
from mendflow_server.api import validation
from mendflow_server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Any, Any], object]


#: The defaults, with small payloads.
SETTINGS = load_settings(payload_limit=100)
WELL_FORMED = "abcXYZ019._:/@+-"


def refused(check: Check, request: object) -> list[str]:
    """Return the fields that a check refuses."""
    with pytest.raises(errors.InvalidFields) as caught:
        check(request, SETTINGS)
    return [field for field, _ in caught.value.violations]


def start(**fields: Any) -> StartWorkflowRequest:
    return StartWorkflowRequest(**{"workflow_type": "echo", **fields})


@pytest.mark.parametrize("workflow_id", ["a", "7", "a" * 200, "order-17", "a" + WELL_FORMED])
def test_ids_within_the_rule_are_taken(workflow_id: str) -> None:
    assert validation.check_start(start(workflow_id=workflow_id), SETTINGS).workflow_id == workflow_id
    assert validation.check_get(GetWorkflowRequest(workflow_id=workflow_id), SETTINGS).workflow_id == workflow_id


@pytest.mark.parametrize("workflow_id", ["-a", ".", "a b", "a\n", "a\0", "ä", "a,b", "a" * 201, "a%", "\u0661"])
def test_ids_beyond_the_rule_are_refused_by_every_verb(workflow_id: str) -> None:
    assert refused(validation.check_start, start(workflow_id=workflow_id)) == ["workflow_id"]
    verbs: list[tuple[Check, object]] = [
        (validation.check_get, GetWorkflowRequest(workflow_id=workflow_id)),
        (validation.check_watch, WatchWorkflowRequest(workflow_id=workflow_id)),
        (validation.check_list_events, ListEventsRequest(workflow_id=workflow_id)),
        (validation.check_signal, SignalWorkflowRequest(workflow_id=workflow_id, name="go")),
        (validation.check_cancel, CancelWorkflowRequest(workflow_id=workflow_id)),
        (validation.check_operator, ResumeWorkflowRequest(workflow_id=workflow_id)),
    ]
    for check, request in verbs:
        assert refused(check, request) == ["workflow_id"]


@given(text=st.text(max_size=12))
def test_an_id_is_taken_exactly_when_the_rule_says_so(text: str) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    allowed = bool(text) and text[0] in letters and all(c in letters + "._:/@+-" for c in text)
    try:
        validation.check_get(GetWorkflowRequest(workflow_id=text), SETTINGS)
    except errors.InvalidFields:
        assert not allowed
    else:
        assert allowed


def test_a_missing_id_is_required_everywhere_but_at_the_start() -> None:
    verbs: list[tuple[Check, object]] = [
        (validation.check_get, GetWorkflowRequest()),
        (validation.check_watch, WatchWorkflowRequest()),
        (validation.check_list_events, ListEventsRequest()),
        (validation.check_signal, SignalWorkflowRequest(name="go")),
        (validation.check_cancel, CancelWorkflowRequest()),
        (validation.check_operator, ResumeWorkflowRequest()),
    ]
    for check, request in verbs:
        assert refused(check, request) == ["workflow_id"]
    assert validation.check_start(start(), SETTINGS).workflow_id == ""


def test_a_missing_id_is_derived_from_the_request_id() -> None:
    first = validation.check_start(start(request_id="r-1"), SETTINGS)
    again = validation.check_start(start(request_id="r-1"), SETTINGS)
    other = validation.check_start(start(request_id="r-2"), SETTINGS)
    assert first.workflow_id == again.workflow_id != other.workflow_id
    assert validation.check_start(start(request_id="r-1", workflow_id="w"), SETTINGS).workflow_id == "w"
    longest = validation.check_start(start(request_id="r" * 128), SETTINGS).workflow_id
    assert validation.check_get(GetWorkflowRequest(workflow_id=longest), SETTINGS).workflow_id == longest


def test_all_invalid_fields_are_reported_at_once() -> None:
    request = StartWorkflowRequest(
        workflow_id="not an id",
        request_id="-",
        labels={"bad name": "x", "good": "v" * 256},
        wait=Duration(seconds=61),
    )
    assert sorted(refused(validation.check_start, request)) == [
        'labels["bad name"]',
        'labels["good"]',
        "request_id",
        "wait",
        "workflow_id",
        "workflow_type",
    ]


@pytest.mark.parametrize("request_id", ["-a", "a" * 129, "a b"])
def test_malformed_request_ids_are_refused(request_id: str) -> None:
    assert refused(validation.check_start, start(request_id=request_id)) == ["request_id"]
    signal = SignalWorkflowRequest(workflow_id="w", name="go", request_id=request_id)
    assert refused(validation.check_signal, signal) == ["request_id"]
    cancel = CancelWorkflowRequest(workflow_id="w", request_id=request_id)
    assert refused(validation.check_cancel, cancel) == ["request_id"]


@pytest.mark.parametrize("labels", [{"a" * 63: "v" * 255}, {"team/x_Y-1.": ""}, {f"l{i}": "ü" for i in range(32)}])
def test_labels_within_the_rule_are_taken(labels: dict[str, str]) -> None:
    assert validation.check_start(start(labels=labels), SETTINGS).labels == labels
    listed = validation.check_list_workflows(ListWorkflowsRequest(labels=labels), SETTINGS)
    assert dict(listed.condition.labels) == labels


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"": "v"}, 'labels[""]'),
        ({"a" * 64: "v"}, f'labels["{"a" * 64}"]'),
        ({"a:b": "v"}, 'labels["a:b"]'),
        ({"a": "v" * 256}, 'labels["a"]'),
        ({"a": "v\0"}, 'labels["a"]'),
        ({f"l{i}": "" for i in range(33)}, "labels"),
    ],
)
def test_labels_beyond_the_rule_are_refused(labels: dict[str, str], field: str) -> None:
    assert refused(validation.check_start, start(labels=labels)) == [field]
    assert refused(validation.check_list_workflows, ListWorkflowsRequest(labels=labels)) == [field]


@pytest.mark.parametrize(
    ("wait", "seconds"), [(Duration(), 0.0), (Duration(nanos=5), 5e-9), (Duration(seconds=60), 60.0)]
)
def test_waits_up_to_the_limit_are_taken(wait: Duration, seconds: float) -> None:
    found = validation.check_start(start(wait=wait), SETTINGS).wait
    assert found is not None
    assert math.isclose(found, seconds)
    assert math.isclose(validation.check_get(GetWorkflowRequest(workflow_id="w", wait=wait), SETTINGS).wait, seconds)


def test_no_wait_differs_from_a_wait_of_zero() -> None:
    assert validation.check_start(start(), SETTINGS).wait is None
    assert validation.check_start(start(wait=Duration()), SETTINGS).wait is not None


@pytest.mark.parametrize(
    "wait",
    [
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=60, nanos=1),
        Duration(nanos=1_000_000_000),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
    ],
)
def test_invalid_waits_are_refused(wait: Duration) -> None:
    assert refused(validation.check_start, start(wait=wait)) == ["wait"]
    assert refused(validation.check_get, GetWorkflowRequest(workflow_id="w", wait=wait)) == ["wait"]


@pytest.mark.parametrize(
    ("asked", "given_size"), [(0, 100), (1, 1), (1_000, 1_000), (1_001, 1_000), (2**31 - 1, 1_000)]
)
def test_page_sizes_are_bounded(asked: int, given_size: int) -> None:
    assert validation.check_list_workflows(ListWorkflowsRequest(page_size=asked), SETTINGS).page_size == given_size
    events = ListEventsRequest(workflow_id="w", page_size=asked)
    assert validation.check_list_events(events, SETTINGS).page_size == given_size
    assert validation.check_list_types(ListWorkflowTypesRequest(page_size=asked), SETTINGS) == given_size


def test_negative_page_sizes_are_refused() -> None:
    assert refused(validation.check_list_workflows, ListWorkflowsRequest(page_size=-1)) == ["page_size"]
    assert refused(validation.check_list_events, ListEventsRequest(workflow_id="w", page_size=-1)) == ["page_size"]
    assert refused(validation.check_list_types, ListWorkflowTypesRequest(page_size=-1)) == ["page_size"]


def test_every_known_state_and_kind_is_taken_and_no_other() -> None:
    states = [number for number in workflow_pb2.WorkflowState.values() if number]
    listed = ListWorkflowsRequest(states=states + states)
    assert validation.check_list_workflows(listed, SETTINGS).condition.states == tuple(sorted(states))
    kinds = [number for number in event_pb2.EventKind.values() if number]
    watched = validation.check_watch(WatchWorkflowRequest(workflow_id="w", kinds=kinds), SETTINGS)
    assert watched.kinds == frozenset(kinds)
    bad_states = ListWorkflowsRequest.FromString(b"\x22\x03\x00\x07\x63")  # states: 0, 7, 99
    assert refused(validation.check_list_workflows, bad_states) == ["states[0]", "states[2]"]
    bad_kinds = WatchWorkflowRequest.FromString(b"\x0a\x01w\x1a\x03\x00\x0a\x1d")  # kinds: 0, 10, 29
    assert refused(validation.check_watch, bad_kinds) == ["kinds[0]", "kinds[2]"]


def test_a_negative_cursor_is_refused() -> None:
    assert refused(validation.check_watch, WatchWorkflowRequest(workflow_id="w", after_sequence=-1)) == [
        "after_sequence"
    ]


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(nanos=-1),
        Timestamp(nanos=10**9),
    ],
)
def test_times_out_of_range_are_refused(moment: Timestamp) -> None:
    request = ListWorkflowsRequest(create_time_from=moment, create_time_until=moment)
    assert refused(validation.check_list_workflows, request) == ["create_time_from", "create_time_until"]


@given(
    seconds=st.integers(-62_135_596_800, 253_402_300_799),
    nanos=st.integers(0, 999_999_999),
    shift=st.integers(-2, 2),
)
def test_times_decide_exactly_for_whole_microseconds(seconds: int, nanos: int, shift: int) -> None:
    request = ListWorkflowsRequest(create_time_from=Timestamp(seconds=seconds, nanos=nanos))
    bound = validation.check_list_workflows(request, SETTINGS).condition.create_time_from
    assert bound is not None
    asked = seconds * 1_000_000_000 + nanos
    created = asked // 1000 + shift  # A row's time, in microseconds.
    assert (created >= bound) == (created * 1000 >= asked)


@pytest.mark.parametrize("name", ["", "-go", "a" * 101, "go now"])
def test_malformed_signal_names_are_refused(name: str) -> None:
    assert refused(validation.check_signal, SignalWorkflowRequest(workflow_id="w", name=name)) == ["name"]


def test_reasons_are_bounded_in_characters() -> None:
    longest = "ü" * 1_000
    assert validation.check_cancel(CancelWorkflowRequest(workflow_id="w", reason=longest), SETTINGS).reason == longest
    for reason in (longest + "x", "a\0"):
        assert refused(validation.check_cancel, CancelWorkflowRequest(workflow_id="w", reason=reason)) == ["reason"]
        assert refused(validation.check_operator, ResumeWorkflowRequest(workflow_id="w", reason=reason)) == ["reason"]


def test_payloads_are_counted_in_their_own_bytes() -> None:
    fits = [Payload(json='"' + "ü" * 49 + '"'), Payload(message=AnyMessage(type_url="x/" + "y" * 90, value=b"1" * 100))]
    for payload in fits:
        validation.check_start(start(input=payload), SETTINGS)
        validation.check_signal(SignalWorkflowRequest(workflow_id="w", name="go", data=payload), SETTINGS)
    beyond = [Payload(json='"' + "ü" * 49 + '" '), Payload(message=AnyMessage(type_url="x/y", value=b"1" * 101))]
    for payload in beyond:
        with pytest.raises(errors.TooLarge) as caught:
            validation.check_start(start(input=payload), SETTINGS)
        assert caught.value.violations[0][0] == "input"
        assert caught.value.metadata == {"limit": "100", "size": "101"}
        with pytest.raises(errors.TooLarge) as caught:
            validation.check_signal(SignalWorkflowRequest(workflow_id="w", name="go", data=payload), SETTINGS)
        assert caught.value.violations[0][0] == "data"


def test_batches_are_refused_as_a_whole_only_for_what_concerns_the_whole() -> None:
    assert refused(validation.check_batch, BatchStartWorkflowsRequest()) == ["requests"]
    too_many = BatchStartWorkflowsRequest(requests=[start()] * 1_001)
    assert refused(validation.check_batch, too_many) == ["requests"]
    waits = BatchStartWorkflowsRequest(requests=[start(), start(wait=Duration()), start(wait=Duration(seconds=1))])
    assert refused(validation.check_batch, waits) == ["requests[1].wait", "requests[2].wait"]
    validation.check_batch(BatchStartWorkflowsRequest(requests=[start(workflow_id="-")] * 1_000), SETTINGS)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        Payload(),
        Payload(json="null"),
        Payload(json="[1]"),
        Payload(json=f'{{"a": {"9" * 4_300}, "b": {{"a": ":"}}}}'),
        Payload(message=AnyMessage(type_url="a/b.C")),
    ],
)
def test_undeclared_signals_take_any_well_formed_value(payload: Payload | None) -> None:
    validation.decode_signal(None, payload)


@workflow
async def anything(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 1}', '{"a": 1, "\\u0061": 2}', '[{"x": {"b": [], "c": 1, "b": [{}]}}]'], ids=str
)
def test_an_input_with_a_member_twice_is_refused_and_names_it(text: str) -> None:
    with pytest.raises(
        errors.InputMismatch, match=r'^input: an object must not have a member twice, and one has "[ab]"'
    ):
        validation.decode_input(anything, Payload(json=text))


def test_the_same_member_in_two_objects_is_accepted() -> None:
    text = '{"a": {"a": "a: a:"}, "b": [{"a": 1}, {"a": 2}]}'
    assert validation.decode_input(anything, Payload(json=text)) == json.loads(text)


@pytest.mark.parametrize(
    "payload",
    [
        Payload(json=""),
        Payload(json="{"),
        Payload(json="NaN"),
        Payload(json="[Infinity]"),
        Payload(json="1 2"),
        Payload(json="[" * 100_000),
        # Values that Python's own parser accepts, but that would fail the workflow.
        Payload(json="[" * 300 + "]" * 300),
        Payload(json='"\\ud800"'),
        Payload(json="9" * 10_000),
        Payload(json='{"a": 1, "b": 2, "a": 1}'),
        Payload(message=AnyMessage(value=b"1")),
    ],
    ids=lambda payload: str(payload)[:20],
)
def test_undeclared_signals_refuse_what_is_no_value(payload: Payload) -> None:
    with pytest.raises(errors.InputMismatch) as caught:
        validation.decode_signal(None, payload)
    assert caught.value.violations[0][0].split(".")[0] == "data"


def test_an_unknown_type_names_the_served_ones() -> None:
    with pytest.raises(errors.UnknownWorkflowType) as caught:
        validation.definition_of("chekout", {"checkout": object()})  # type: ignore[dict-item]  # never looked at
    assert caught.value.metadata == {"served": "checkout"}
