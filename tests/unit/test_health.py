"""The rule of health, without a server."""

from __future__ import annotations

import dataclasses

import pytest

from mendflow_server.health.monitor import HealthInputs, judge
from mendflow_server.settings import load_settings

SETTINGS = load_settings()
GOOD = HealthInputs(
    oldest_uncommitted_age=None,
    last_commit_age=1.0,
    last_tick_age=0.5,
    recovered=True,
    draining=False,
    store_failure="",
)


def test_good_signals_are_ready_and_alive() -> None:
    ready, alive = judge(GOOD, 0.0, SETTINGS)
    assert ready.ok
    assert alive.ok


@pytest.mark.parametrize(
    ("change", "lag", "reason", "alive"),
    [
        ({"oldest_uncommitted_age": 5.1}, 0.0, "pending for 5.1 s", True),
        ({"last_commit_age": 8.1}, 0.0, "not committed for 8.1 s", True),
        ({"draining": True}, 0.0, "shutting down", True),
        ({"store_damage": "it is damaged; restore a copy"}, 0.0, "restore a copy", True),
        ({"oldest_uncommitted_age": 5.1}, 0.0, "check what keeps the disk busy", True),
        ({"recovered": False}, 0.0, "recovery in progress", True),
        ({}, 2.1, "2.1 s late", True),
        ({}, 31.0, "event loop was blocked", False),
        ({"last_tick_age": 30.1}, 0.0, "not ticked", False),
    ],
)
def test_each_signal_by_itself(change: dict[str, object], lag: float, reason: str, *, alive: bool) -> None:
    ready, living = judge(dataclasses.replace(GOOD, **change), lag, SETTINGS)  # type: ignore[arg-type]
    assert not ready.ok
    assert any(reason in each for each in ready.reasons)
    assert living.ok is alive


@pytest.mark.parametrize("change", [{"oldest_uncommitted_age": 4.9}, {"last_commit_age": 7.9}, {"last_tick_age": 29.0}])
def test_signals_below_the_limits_are_healthy(change: dict[str, object]) -> None:
    ready, alive = judge(dataclasses.replace(GOOD, **change), 1.9, SETTINGS)  # type: ignore[arg-type]
    assert ready.ok
    assert alive.ok
