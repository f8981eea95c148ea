"""A trace's context: the server adopts the caller's, or begins a new trace, and gives it to the code of attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel

from mendflow_server.telemetry import trace_from_metadata
from mendflow_server.telemetry.span_context import attempt_context
from mendflow_server.telemetry.trace_context import attempt_span_id
from tests.support.span_samples import PARENT, TRACE_ID, UID, context_of

pytestmark = pytest.mark.usefixtures("no_otel_variables")


def test_spans_of_an_attempts_code_hang_below_its_span() -> None:
    context = attempt_context(context_of(), UID, "charge", 3)
    inside = otel.get_current_span(context).get_span_context()
    assert inside.is_valid
    assert f"{inside.trace_id:032x}" == TRACE_ID
    assert inside.span_id == attempt_span_id(UID, "charge", 3)
    assert inside.trace_flags.sampled


def test_the_callers_context_is_adopted() -> None:
    found = trace_from_metadata(
        [
            ("user-agent", "grpc"),
            ("traceparent", f"00-{TRACE_ID}-{PARENT}-01"),
            ("tracestate", "vendor=1"),
            ("baggage", "tenant=a"),
        ]
    )
    assert (found.trace_id, found.parent_span_id, found.trace_flags) == (TRACE_ID, PARENT, 1)
    assert (found.trace_state, found.baggage) == ("vendor=1", "tenant=a")


def test_a_callers_decision_not_to_sample_is_kept() -> None:
    assert trace_from_metadata([("traceparent", f"00-{TRACE_ID}-{PARENT}-00")]).trace_flags == 0


def test_a_traceparent_of_a_later_version_is_accepted() -> None:
    assert trace_from_metadata([("traceparent", f"01-{TRACE_ID}-{PARENT}-01-more")]).trace_id == TRACE_ID


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{PARENT}-01",
        f"00-{TRACE_ID.upper()}-{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01-more",
        f"00-{TRACE_ID}-{PARENT}",
        f"00-{TRACE_ID[:-1]}-{PARENT}-01",
        b"\xff\xfe",
    ],
)
def test_a_bad_traceparent_begins_a_new_trace(traceparent: str | bytes) -> None:
    metadata = [("traceparent", traceparent), ("tracestate", "vendor=1")]
    found = trace_from_metadata(metadata, random_bytes=lambda size: b"\x07" * size)
    assert (found.trace_id, found.parent_span_id, found.trace_flags) == ("07" * 16, "", 1)
    assert found.trace_state == "", "a tracestate belongs to its traceparent"


def test_without_a_callers_context_each_trace_is_new() -> None:
    first, second = trace_from_metadata(None), trace_from_metadata(())
    assert first.trace_id != second.trace_id
    assert len(first.trace_id) == 32


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_any_metadata_gives_a_usable_context(traceparent: str, tracestate: str, baggage: str) -> None:
    found = trace_from_metadata([("traceparent", traceparent), ("tracestate", tracestate), ("baggage", baggage)])
    assert otel.get_current_span(attempt_context(found, UID, "charge", 1)).get_span_context().is_valid


@given(st.text(max_size=80))
def test_any_tracestate_gives_a_usable_context(tracestate: str) -> None:
    found = trace_from_metadata([("traceparent", f"00-{TRACE_ID}-{PARENT}-01"), ("tracestate", tracestate)])
    assert otel.get_current_span(attempt_context(found, UID, "charge", 1)).get_span_context().is_valid
