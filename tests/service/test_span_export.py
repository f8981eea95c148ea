"""Where spans go: to an endpoint, to the console or nowhere, under which name, and past a receiver that is silent."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mendflow_server.telemetry import build_exporter, log_ignored_variables
from tests.support.span_samples import context_of, export_attempt, projector, report_attempt, succeeded

if TYPE_CHECKING:
    from tests.support.span_receiver import Receiver

pytestmark = pytest.mark.usefixtures("no_otel_variables")


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


def test_the_traces_endpoint_alone_is_enough(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    export_attempt()
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
    export_attempt()
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
