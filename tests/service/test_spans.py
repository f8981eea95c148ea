"""Spans: the server sends committed history to a real OTLP receiver."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace.sampling import _KNOWN_SAMPLERS, Decision, _get_from_env_or_default
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mendflow.foreign_variables import take_ignored
from mendflow.v1 import event_pb2, failure_pb2
from mendflow_server.telemetry import build_exporter, build_sampler, log_ignored_variables, trace_from_metadata
from mendflow_server.telemetry.span_context import attempt_context
from mendflow_server.telemetry.trace_context import attempt_span_id, workflow_span_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow_server.telemetry.spans import SpanProjector

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
UID = "0b9c1f6e"
ERROR, OK = trace_pb2.Status.STATUS_CODE_ERROR, trace_pb2.Status.STATUS_CODE_OK


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Stores the spans that it receives."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the rpc's name
        for each in request.resource_spans:
            self.resources.append(values(each.resource.attributes))
            for scope in each.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    found = Receiver()
    serve: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    serve(found, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield found
    server.stop(0).wait()


def projector() -> SpanProjector:
    built = build_exporter()
    assert built is not None
    return built


def context_of(flags: int = 1, parent: str = "") -> event_pb2.TraceContext:
    return event_pb2.TraceContext(trace_id=TRACE_ID, trace_flags=flags, parent_span_id=parent)


def event(seconds: int) -> event_pb2.Event:
    made = event_pb2.Event()
    made.time.seconds = seconds
    return made


def started(attempt: int = 1, seconds: int = 100) -> event_pb2.Event:
    made = event(seconds)
    detail = made.attempt_started
    detail.step_key, detail.step_name, detail.attempt = "gather[3]/charge", "charge", attempt
    return made


def succeeded(seconds: int = 101) -> event_pb2.Event:
    made = event(seconds)
    made.attempt_succeeded.SetInParent()
    return made


def failed(kind: failure_pb2.FailureKind.ValueType, type_: str, message: str) -> event_pb2.Event:
    made = event(101)
    failure, decision = made.attempt_failed.failure, made.attempt_failed.decision
    failure.kind, failure.type, failure.message = kind, type_, message
    decision.action, decision.reason = failure_pb2.RETRY_ACTION_RETRY, failure_pb2.RETRY_REASON_BACKOFF
    decision.delay.FromMilliseconds(250)
    decision.explanation = "attempt 1 of 5"
    return made


def report_attempt(
    to: SpanProjector, context: event_pb2.TraceContext, closed: event_pb2.Event, number: int = 1
) -> None:
    to.attempt_closed(context, UID, "order-17", "checkout", started(number), closed)


# --- the content of a span ---


def test_an_attempt_hangs_below_its_workflow_at_the_times_of_its_events(receiver: Receiver) -> None:
    spans = projector()
    report_attempt(spans, context_of(), succeeded())
    spans.shutdown()
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
    spans = projector()
    report_attempt(spans, context_of(), failed(failure_pb2.FAILURE_KIND_TRANSIENT, "ConnectionError", "reset"))
    spans.shutdown()
    (span,) = receiver.spans
    said = values(span.attributes)
    assert (span.status.code, span.status.message) == (ERROR, "ConnectionError: reset")
    assert (said["mendflow.failure.kind"], said["error.type"]) == ("transient", "ConnectionError")
    assert (said["mendflow.retry.action"], said["mendflow.retry.delay_seconds"]) == ("retry", 0.25)
    assert said["mendflow.retry.explanation"] == "attempt 1 of 5"
    assert said["mendflow.retry.reason"] == "backoff"
    assert said["mendflow.attempt.lost"] is False


def test_a_lost_attempt_is_marked(receiver: Receiver) -> None:
    spans = projector()
    report_attempt(spans, context_of(), failed(failure_pb2.FAILURE_KIND_LOST, "", "the server died"))
    spans.shutdown()
    (span,) = receiver.spans
    said = values(span.attributes)
    assert said["mendflow.attempt.lost"] is True
    assert said["mendflow.failure.kind"] == "lost"
    assert (span.status.code, span.status.message) == (ERROR, "the server died")


def test_a_clock_that_was_set_back_makes_no_span_end_before_it_began(receiver: Receiver) -> None:
    spans = projector()
    report_attempt(spans, context_of(), succeeded(seconds=40))
    spans.shutdown()
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
        spans = projector()
        report_attempt(spans, context_of(), succeeded())
        spans.shutdown()
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


# --- the source of the context, and its use ---


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


# --- the standard variables ---


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
    ],
)
def test_without_an_endpoint_no_spans_are_exported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert build_exporter() is None
    log_ignored_variables()
    assert capsys.readouterr().out == ""


def ignored() -> list[tuple[str, str, str]]:
    """Return what is reported: variables, their values, and what is done instead."""
    return [(each.variable, each.value, each.instead) for each in take_ignored()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:port"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER", "vault"),
    ],
)
def test_a_variable_that_prevents_the_export_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    assert build_exporter() is None
    assert ignored() == [(name, value, "spans are not exported")]


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "spans are sent without compression"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "deflate", "spans are sent without compression"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "the limit is 10 s"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "nan", "the limit is 10 s"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "perhaps", "the endpoint's scheme decides"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", "the system's certificates are used"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/", "the system's certificates are used"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere", "the client shows no certificate"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nowhere", "the client shows no certificate"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES", "BUSY", "OpenTelemetry's own list is used"),
        ("OTEL_PYTHON_METER_PROVIDER", "vendor", "there are no such metrics"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "perhaps", "there are no such metrics"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5", "2048 is used"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9999", "512 is used"),
        ("OTEL_BSP_SCHEDULE_DELAY", "x", "5000 is used"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a,nonsense", "team=a is used"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "vendor", "none is used"),
        ("OTEL_TRACES_EXPORTER", "zipkin,otlp", "otlp is used"),
    ],
)
def test_a_value_that_the_sdk_cannot_take_is_reported_once_and_spans_are_exported(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str, value: str, instead: str
) -> None:
    monkeypatch.setenv(name, value)
    spans = projector()
    report_attempt(spans, context_of(), succeeded())
    spans.shutdown()
    assert len(receiver.spans) == 1
    assert ignored() == [(name, value, instead)]
    assert os.environ[name] == value, "the variable is as before for the code of steps"


def test_headers_that_cannot_be_sent_are_reported_without_their_secrets(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "secret-token")
    spans = projector()
    report_attempt(spans, context_of(), succeeded())
    spans.shutdown()
    assert len(receiver.spans) == 1
    assert ignored() == [("OTEL_EXPORTER_OTLP_HEADERS", "(hidden)", "spans are sent without these headers")]


def test_a_bad_variable_of_traces_gives_way_to_the_general_one(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon")
    projector().shutdown()
    assert ignored() == [("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TIMEOUT holds")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", ""),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", ""),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,Other=c"),
        # The batch's size follows the queue's.
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c=d=e"),
        ("http_proxy", "http://127.0.0.1:9"),
        ("grpc_proxy", "http://127.0.0.1:9"),
    ],
)
def test_a_value_that_is_allowed_is_not_reported(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    spans = projector()
    report_attempt(spans, context_of(), succeeded())
    spans.shutdown()
    assert len(receiver.spans) == 1
    assert ignored() == []


# --- the sampler ---


@pytest.mark.parametrize("ratio", ["0", "0.25", "1", "", "2", "nonsense", "nan"])
@pytest.mark.parametrize("name", [*_KNOWN_SAMPLERS, "PARENTBASED_ALWAYS_OFF"])
@pytest.mark.parametrize("flags", [None, "00", "01", "03"])
def test_the_sampler_decides_as_the_sdk_does(
    monkeypatch: pytest.MonkeyPatch, name: str, ratio: str, flags: str | None
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    theirs, ours = _get_from_env_or_default(), build_sampler()
    for lower in (2**64, 2**62 - 1, 2**62, 2**64 - 1):
        trace_id = f"{lower:032x}"
        metadata = [("traceparent", f"00-{trace_id}-{PARENT}-{flags}")] if flags else []
        found = trace_from_metadata(metadata, random_bytes=lambda size: lower.to_bytes(size, "big"), sampler=ours)  # noqa: B023 - called at once
        parent = TraceContextTextMapPropagator().extract(dict(metadata))
        wanted = theirs.should_sample(parent, int(trace_id, 16), "workflow").decision is Decision.RECORD_AND_SAMPLE
        assert bool(found.trace_flags & 1) is wanted
        assert found.trace_flags & ~1 == (int(flags or "0", 16) & ~1)
    take_ignored()


def test_an_unknown_sampler_is_reported_once_and_the_default_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "xray")
    assert build_sampler() is None
    assert ignored() == [("OTEL_TRACES_SAMPLER", "xray", "parentbased_always_on is used")]


def test_a_bad_ratio_is_reported_once_and_everything_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "often")
    sampler = build_sampler()
    assert sampler is not None
    assert sampler(2**64 - 1, None)
    assert ignored() == [("OTEL_TRACES_SAMPLER_ARG", "often", "1 is used")]


def test_the_traces_endpoint_alone_is_enough(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    spans = projector()
    report_attempt(spans, context_of(), succeeded())
    spans.shutdown()
    assert len(receiver.spans) == 1


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "mendflow"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,team=a"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=a"}, "mendflow"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=other", "OTEL_SERVICE_NAME": "shop"}, "shop"),
    ],
)
def test_the_services_name(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    spans = projector()
    report_attempt(spans, context_of(), succeeded())
    spans.shutdown()
    (resource,) = receiver.resources
    assert resource["service.name"] == name
    assert ("team" in resource) is ("team=a" in variables.get("OTEL_RESOURCE_ATTRIBUTES", ""))


def test_on_the_console_a_span_is_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    spans = projector()
    for number in (1, 2):
        report_attempt(spans, context_of(), succeeded(), number)
    spans.shutdown()
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [span["attributes"]["workflow.step.attempt"] for span in printed] == [1, 2]


# --- a receiver that does not answer ---


def test_a_receiver_that_never_answers_delays_neither_the_server_nor_its_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1000")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "40")
        before = set(threading.enumerate())
        spans = projector()
        began = time.monotonic()
        # More spans than the queue holds: the exporter drops the rest, and no caller waits.
        for number in range(1, 3001):
            report_attempt(spans, context_of(), succeeded(), number)
        assert time.monotonic() - began < 20
        began = time.monotonic()
        spans.shutdown()
        assert time.monotonic() - began < 20
        left = [thread.name for thread in set(threading.enumerate()) - before]
        assert left == [], "nothing continues in the background"
