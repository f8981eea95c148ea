"""The report of a blocked loop, for people; tests/crash/test_process_end.py reads it as JSON."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import structlog

from mendflow_server.settings import load_settings
from mendflow_server.supervisor import loop_watch
from mendflow_server.supervisor.loop_watch import LoopWatch
from mendflow_server.telemetry.logging import configure_logs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_blocked_loop_is_reported_again_when_the_time_has_doubled(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The module's own logger keeps the configuration that it was first used with.
    monkeypatch.setattr(loop_watch, "log", structlog.get_logger("mendflow.loop"))
    configure_logs(load_settings(log_format="console"))
    text = ""
    with LoopWatch(limit=0.1):
        while text.count("event_loop_blocked") < 2:  # The test's timeout ends it.
            time.sleep(0.05)
            text += capfd.readouterr().out
    assert "test_loop_watch.py" in text
