"""The OpenTelemetry variables of spans: a bad value is reported once, and spans are exported where they can be."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mendflow_server.telemetry import build_exporter
from tests.support.ignored_variables import ignored
from tests.support.span_samples import export_attempt, projector

if TYPE_CHECKING:
    from tests.support.span_receiver import Receiver

pytestmark = pytest.mark.usefixtures("no_otel_variables")


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
    export_attempt()
    assert len(receiver.spans) == 1
    assert ignored() == [(name, value, instead)]
    assert os.environ[name] == value, "the variable is as before for the code of steps"


def test_headers_that_cannot_be_sent_are_reported_without_their_secrets(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "secret-token")
    export_attempt()
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
    export_attempt()
    assert len(receiver.spans) == 1
    assert ignored() == []
