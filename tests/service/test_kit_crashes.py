"""The test kit: crashes at named commits, and what follows from them."""

from __future__ import annotations

import pytest

from mendflow import TransientError
from mendflow.testing import WorkflowTest
from pytest_mendflow import NewEnvironment, mendflow_env
from tests.support.kit_workflows import charge, mixed, nap, place_order

_ = mendflow_env


def test_a_crash_at_each_commit_leads_to_the_same_result() -> None:
    with WorkflowTest(mixed) as env:
        run = env.start(mixed, 1)
        run.signal("go", "on")
        expected = run.result()
        points = run.history.points
    assert len(points) > 10
    for before in (False, True):
        for point in dict.fromkeys(points):
            with WorkflowTest(mixed) as env:
                env.crash_at(point, before=before)
                run = env.start(mixed, 1)
                run.signal("go", "on")
                assert run.result() == expected, (point, before)
                assert env.crashes == 1, (point, before)


def test_the_attempt_that_a_crash_interrupts_runs_again_under_its_key(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order)
    fake = env.fake(charge, [TransientError("bank"), "receipt"])
    env.crash_at("attempt_started:charge:2")
    run = env.start(place_order, 7)
    run.signal("decision", "approve")
    assert run.result() == "7 with receipt"
    assert env.crashes == 1
    assert [call.attempt for call in fake.calls] == [1, 3], "the second attempt was lost before its code ran"
    assert len({call.idempotency_key for call in fake.calls}) == 1
    run.history.assert_events("attempt_started:charge:2", "workflow_recovered", "attempt_started:charge:3")


def test_the_nth_event_of_a_kind_is_a_point(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(nap)
    env.crash_at("workflow_started", nth=2)
    first, second = env.start(nap), env.start(nap)
    assert env.crashes == 1
    assert len(first.result()) == len(second.result()) == 2


def test_many_crashes_of_one_step_delay_it_and_lose_nothing(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order, crash_budget=10)
    env.fake(charge, "receipt")
    for number in (1, 2, 3):
        env.crash_at(f"attempt_started:charge:{number}")
    run = env.start(place_order, 7)
    run.signal("decision", "approve")
    assert run.result() == "7 with receipt"
    assert env.crashes == 3


def test_a_point_that_is_not_reached_fails_the_test() -> None:
    def crash_nowhere() -> None:
        with WorkflowTest(nap) as env:
            env.crash_at("timer_fired", nth=2, before=True)
            env.run(nap)

    with pytest.raises(AssertionError, match="did not reach the crash point before timer_fired number 2"):
        crash_nowhere()
    with WorkflowTest(nap) as env:
        with pytest.raises(ValueError, match="must begin with a kind of event, not 'timer'"):
            env.crash_at("timer")
        with pytest.raises(ValueError, match="nth must be 1 or more, not 0"):
            env.crash_at("timer_fired", nth=0)
