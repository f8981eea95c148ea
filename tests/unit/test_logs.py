"""Logs: every logged value gives one JSON object on one line."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mendflow_server.settings import load_settings
from mendflow_server.telemetry import logging as server_logging
from mendflow_server.telemetry.logging import configure_logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Restore the process's logging configuration."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured, before = structlog.is_configured(), structlog.get_config()
    output = server_logging.OUTPUT[:]
    yield
    server_logging.OUTPUT[:] = output
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    if configured:
        structlog.configure(**before)
    structlog.contextvars.clear_contextvars()


def logger() -> Any:
    return structlog.get_logger("mendflow.test")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_time_level_event_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings())
    logger().info("workflow_started", workflow_id="order-17", attempt=2)
    (line,) = lines(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {"event": "workflow_started", "level": "info", "workflow_id": "order-17", "attempt": 2}


def test_bound_values_are_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="json"))
    with structlog.contextvars.bound_contextvars(trace_id="ab" * 16, span_id="cd" * 8):
        logger().info("inside")
        logging.getLogger("aiohttp.server").error("foreign")
    logger().info("outside")
    inside, foreign, outside = lines(capsys)
    assert inside["trace_id"] == foreign["trace_id"] == "ab" * 16
    assert inside["span_id"] == foreign["span_id"] == "cd" * 8
    assert "trace_id" not in outside


def test_an_exception_is_a_field_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="json"))
    try:
        raise ValueError("two\nlines")  # noqa: TRY301 - it is what is logged
    except ValueError:
        logger().exception("own")
        logging.getLogger("grpc").exception("foreign %s", "text")
    own, foreign = lines(capsys)
    assert (own["event"], foreign["event"], foreign["logger"]) == ("own", "foreign text", "grpc")
    for line in (own, foreign):
        assert line["exception"].endswith("ValueError: two\nlines")
        assert line["level"] == "error"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_exceptions_local_variables_are_not_logged(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configure_logs(load_settings(log_format=log_format))

    def charge(card: str) -> None:
        raise ValueError("refused")

    try:
        charge("4111" * 2)
    except ValueError:
        logger().exception("failed")
    out = capsys.readouterr().out
    assert "ValueError: refused" in out
    assert "41114111" not in out


def library_logs(level: str, text: str) -> None:
    """Log as a library does, whose file is in site-packages."""
    library, number = logging.getLogger("grpc"), logging.getLevelName(level.upper())
    if library.isEnabledFor(number):
        path = "/venv/lib/python3.11/site-packages/grpc/_server.py"
        library.handle(library.makeRecord("grpc", number, path, 1, text, (), None))


@pytest.mark.parametrize(
    ("level", "own", "foreign"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_the_level_holds_and_libraries_are_quiet_until_debug(
    capsys: pytest.CaptureFixture[str], level: str, own: list[str], foreign: list[str]
) -> None:
    configure_logs(load_settings(log_format="json", log_level=level))
    for each in ("debug", "info", "warning", "error"):
        getattr(logger(), each)("own")
        library_logs(each, "foreign")
    logged = lines(capsys)
    assert [line["level"] for line in logged if line["event"] == "own"] == own
    assert [line["level"] for line in logged if line["event"] == "foreign"] == foreign


def test_console_is_for_people_and_has_no_colours_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(load_settings(log_format="console"))
    logger().info("serving", port=3000)
    out = capsys.readouterr().out
    assert not out.startswith("{")
    assert "serving" in out
    assert "port=3000" in out
    assert "\x1b" not in out


def test_configured_twice_a_line_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        configure_logs(load_settings(log_format="json"))
    logging.getLogger("grpc").error("once")
    assert [line["event"] for line in lines(capsys)] == ["once"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec=None, exclude_categories=()))
    | st.binary()
    | st.sets(st.integers()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_whatever_is_logged_is_one_line_of_json(capfd: pytest.CaptureFixture[str], value: Any) -> None:
    configure_logs(load_settings(log_format="json"))
    logger().info("said", value=value)
    # Only a newline ends a line of JSON lines. A text may contain Unicode's other line separators.
    output = capfd.readouterr().out.split("\n")
    assert len(output) == 2
    assert output[1] == ""
    assert json.loads(output[0])["event"] == "said"
