"""Comparison of recorded values: payloads are the same if their values are, whatever their text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import any_pb2
from hypothesis import given
from hypothesis import strategies as st

from mendflow.codec import ValueType, payload_size, same_payload
from mendflow.v1 import failure_pb2, payload_pb2
from tests.support.codec_values import FAILURE, plain, texts

Payload = payload_pb2.Payload


@given(plain, plain)
def test_payloads_are_the_same_if_their_values_are(a: Any, b: Any) -> None:
    first, second = (Payload(json=json.dumps(value)) for value in (a, b))
    again = Payload(json=json.dumps(a, indent=3, sort_keys=True))
    assert same_payload(first, first)
    assert same_payload(first, again)
    assert same_payload(again, first)
    assert same_payload(first, second) == same_payload(second, first)
    if a != b:
        assert not same_payload(first, second)


@given(st.dictionaries(texts, plain, min_size=2, max_size=5))
def test_the_order_of_members_does_not_matter(members: dict[str, Any]) -> None:
    backwards = dict(reversed(members.items()))
    assert same_payload(Payload(json=json.dumps(members)), Payload(json=json.dumps(backwards)))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1", "1.0", True),
        ("100", "1e2", True),
        ("1", "true", False),
        ("0", "false", False),
        ("0", "null", False),
        ("[1]", "[true]", False),
        ('{"a":1}', '{"a":true}', False),
        ("9007199254740992", "9007199254740993", False),
        ("9007199254740993", "9007199254740993.0", True),
        ("1" * 10_000, "1" * 9_999 + "2", False),
        ("1" * 10_000, "1" * 10_000 + ".0", True),
        ("1e999", "2e999", False),
        ("1e99999999999999999999", "2e99999999999999999999", False),
        ('"1"', "1", False),
        ("[1,2]", "[2,1]", False),
        ('"\\u0061"', '"a"', True),
        ("{", "{ ", False),
        ("{", "{", True),
        ("[" * 100_000, "[" * 99_999, False),
        ("NaN", " NaN", False),
    ],
)
def test_sameness_case_by_case(a: str, b: str, same: bool) -> None:  # noqa: FBT001
    assert same_payload(Payload(json=a), Payload(json=b)) is same
    assert same_payload(Payload(json=b), Payload(json=a)) is same


def test_sameness_of_absence_and_messages() -> None:
    failure = ValueType.of(failure_pb2.Failure)
    assert same_payload(None, Payload())
    assert same_payload(Payload(), Payload(json=" null"))
    assert not same_payload(None, Payload(json="0"))
    assert not same_payload(None, failure.encode(failure_pb2.Failure()))
    assert not same_payload(Payload(json="{}"), failure.encode(failure_pb2.Failure()))
    assert same_payload(failure.encode(FAILURE), failure.encode(FAILURE))
    assert not same_payload(failure.encode(FAILURE), failure.encode(failure_pb2.Failure()))
    assert not same_payload(Payload(message=any_pb2.Any(type_url="a/b")), Payload(message=any_pb2.Any(type_url="a/c")))


def test_the_size_is_the_length_of_the_value_in_bytes() -> None:
    assert payload_size(None) == payload_size(Payload()) == 0
    assert payload_size(Payload(json='"abc"')) == 5
    assert payload_size(Payload(json='"ä€"')) == 7
    assert payload_size(Payload(message=any_pb2.Any(type_url="a/b", value=b"1234"))) == 4
