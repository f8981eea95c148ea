"""Spans: what the server sends of the committed history to a real OTLP receiver."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1 import trace_pb2

from mendflow.v1 import failure_pb2
from mendflow_server.telemetry.trace_context import attempt_span_id, workflow_span_id
from tests.support.span_receiver import Receiver, values
from tests.support.span_samples import (
    PARENT,
    TRACE_ID,
    UID,
    context_of,
    event,
    export_attempt,
    failed,
    projector,
    report_attempt,
    succeeded,
)

pytestmark = pytest.mark.usefixtures("no_otel_variables")
ERROR, OK = trace_pb2.Status.STATUS_CODE_ERROR, trace_pb2.Status.STATUS_CODE_OK


def test_an_attempt_hangs_below_its_workflow_at_the_times_of_its_events(receiver: Receiver) -> None:
    export_attempt()
    (span,) = receiver.spans
    assert span.trace_id.hex() == TRACE_ID
    assert int.from_bytes(span.span_id, "big") == attempt_span_id(UID, "gather[3]/charge", 1)
    assert int.from_bytes(span.parent_span_id, "big") == workflow_span_id(UID)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (100 * 10**9, 101 * 10**9)
    assert span.status.code == OK
    said = values(span.attributes)
    assert (said["workflow.id"], said["workflow.type"]) == ("order-17", "checkout")
    assert (said["workflow.step.key"], said["workflow.step.attempt"]) == ("gather[3]/charge", 1)
    assert "mendflow.attempt.lost" not in said


def test_a_failed_attempt_says_what_failed_and_what_comes_next(receiver: Receiver) -> None:
    export_attempt(failed(failure_pb2.FAILURE_KIND_TRANSIENT, "ConnectionError", "reset"))
    (span,) = receiver.spans
    said = values(span.attributes)
    assert (span.status.code, span.status.message) == (ERROR, "ConnectionError: reset")
    assert (said["mendflow.failure.kind"], said["error.type"]) == ("transient", "ConnectionError")
    assert (said["mendflow.retry.action"], said["mendflow.retry.delay_seconds"]) == ("retry", 0.25)
    assert said["mendflow.retry.explanation"] == "attempt 1 of 5"
    assert said["mendflow.retry.reason"] == "backoff"
    assert said["mendflow.attempt.lost"] is False


def test_a_lost_attempt_is_marked(receiver: Receiver) -> None:
    export_attempt(failed(failure_pb2.FAILURE_KIND_LOST, "", "the server died"))
    (span,) = receiver.spans
    said = values(span.attributes)
    assert said["mendflow.attempt.lost"] is True
    assert said["mendflow.failure.kind"] == "lost"
    assert (span.status.code, span.status.message) == (ERROR, "the server died")


def test_a_clock_that_was_set_back_makes_no_span_end_before_it_began(receiver: Receiver) -> None:
    export_attempt(succeeded(seconds=40))
    (span,) = receiver.spans
    assert span.end_time_unix_nano == span.start_time_unix_nano == 100 * 10**9


@pytest.mark.parametrize("parent", ["", PARENT])
@pytest.mark.parametrize(
    ("detail", "status"),
    [("succeeded", OK), ("failed", ERROR), ("cancelled", ERROR), ("terminated", ERROR)],
)
def test_a_workflows_span_is_the_root_or_hangs_below_its_caller(
    receiver: Receiver, parent: str, detail: str, status: int
) -> None:
    spans = projector()
    final = event(160)
    getattr(final, f"workflow_{detail}").SetInParent()
    spans.workflow_ended(context_of(parent=parent), UID, "order-17", "checkout", event(100), final)
    spans.shutdown()
    (span,) = receiver.spans
    assert span.parent_span_id.hex() == parent
    assert int.from_bytes(span.span_id, "big") == workflow_span_id(UID)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 60 * 10**9
    assert span.status.code == status
    assert values(span.attributes)["workflow.state"] == detail.upper()


@pytest.mark.parametrize("flags", [0, 2])
def test_an_unsampled_trace_has_no_spans(receiver: Receiver, flags: int) -> None:
    spans = projector()
    report_attempt(spans, context_of(flags), succeeded())
    spans.workflow_ended(context_of(flags), UID, "order-17", "checkout", event(1), event(2))
    # A sampled attempt next to it proves that the receiver works.
    report_attempt(spans, context_of(1), succeeded(), number=2)
    spans.shutdown()
    assert [values(span.attributes)["workflow.step.attempt"] for span in receiver.spans] == [2]


def test_an_attempt_reported_twice_has_the_same_span(receiver: Receiver) -> None:
    for _ in range(2):
        export_attempt()
    first, second = receiver.spans
    assert first == second


@given(
    left=st.tuples(st.text(), st.text(), st.integers(1, 99)), right=st.tuples(st.text(), st.text(), st.integers(1, 99))
)
def test_span_ids_are_stable_valid_and_distinct(left: tuple[str, str, int], right: tuple[str, str, int]) -> None:
    assert 0 < attempt_span_id(*left) < 2**64
    assert attempt_span_id(*left) == attempt_span_id(*left)
    # A uid has no bar in it, so no two attempts share the text that is hashed.
    if left != right and "|" not in left[0] + right[0] + left[1] + right[1]:
        assert attempt_span_id(*left) != attempt_span_id(*right)
