"""The test kit: the real engine in a test, with a clock that skips time."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import TransientError
from mendflow.errors import (
    AlreadyStarted,
    DefinitionError,
    InvalidRequest,
    MendflowError,
    PayloadError,
    WorkflowFailed,
    WorkflowTerminated,
)
from mendflow.testing import AsyncEnvironment, Environment, StillOpen, WorkflowTest, by_hand, replay
from mendflow_server.settings import SettingsError
from pytest_mendflow import NewEnvironment, mendflow_env
from tests.support.kit_workflows import (
    SCENARIOS,
    busy,
    changing,
    charge,
    everything,
    hanging,
    impatient,
    mixed,
    nap,
    note,
    place_order,
    rounds,
    ship,
)

if TYPE_CHECKING:
    from pathlib import Path

_ = mendflow_env  # The fixture, also where the plugin is not installed.


def test_an_hour_of_sleep_ends_at_once(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(nap, start_time=datetime(2030, 1, 31, 12, tzinfo=UTC))
    began = time.monotonic()
    assert env.run(nap) == ["2030-01-31T12:00:00+00:00", "2030-01-31T13:00:00+00:00"]
    assert time.monotonic() - began < 5, "an hour passed in real time"


def test_ten_retries_signals_and_sleeps_take_no_time(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order)
    fake = env.fake(charge, [TransientError("bank")] * 10 + ["receipt"])
    began, env_began = time.monotonic(), env.now
    run = env.start(place_order, 7)
    run.signal("decision", "approve")
    assert run.result() == "7 with receipt"
    assert time.monotonic() - began < 5
    assert (env.now - env_began).total_seconds() > 3_600
    assert run.history.attempts(charge) == 11
    assert [call.attempt for call in fake.calls] == list(range(1, 12))
    assert {call.args for call in fake.calls} == {(7,)}
    assert len({call.idempotency_key for call in fake.calls}) == 1


def test_time_stands_still_while_the_test_acts(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(impatient)
    run = env.start(impatient)
    env.settle()
    assert run.state == "WAITING"
    before = env.now
    run.signal("go", "now")
    assert run.result() == "now"
    assert env.now == before
    assert env.run(impatient) == "too late"


def test_advance_runs_what_falls_due(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(impatient)
    run = env.start(impatient)
    env.advance(3_599)
    assert run.state == "WAITING"
    env.advance(1)
    assert run.state == "SUCCEEDED"
    assert run.result() == "too late"
    with pytest.raises(ValueError, match="from 0 up"):
        env.advance(-1)


def test_time_stands_still_while_a_step_runs(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(busy)
    began = env.now
    assert env.run(busy).startswith("True mendflow-step-")
    assert (env.now - began).total_seconds() == 3_600, "and neither step timed out"


def test_many_workflows_with_real_work_use_up_exactly_the_time_of_their_waits(mendflow_env: NewEnvironment) -> None:
    for crash in (0, 7, 23):
        env = mendflow_env(rounds)
        if crash:
            env.crash_at("timer_fired", nth=crash)
        began = env.now
        runs = [env.start(rounds, number) for number in range(20)]
        assert [run.result() for run in runs] == list(range(20))
        assert (env.now - began).total_seconds() == 7_201, "the clock moved while something was in progress"


def test_a_hung_step_times_out_when_the_test_lets_time_pass(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(hanging)
    run = env.start(hanging)
    with pytest.raises(StillOpen, match=r"hanging-1: hang attempt 1 runs .*advance\(\)"):
        run.result(timeout=1)
    env.advance(10)
    assert run.history.count("attempt_failed:hang:1") == 1
    env.advance(10 + 60)
    with pytest.raises(WorkflowFailed, match="exceeded its timeout of 10 s"):
        run.result()


def test_a_workflow_that_waits_for_the_test_is_reported(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(mixed)
    env.fake(note, lambda text: text)

    run = env.start(mixed, 1)
    run.terminate()
    with pytest.raises(WorkflowTerminated):
        run.result()


def test_fakes_by_name_by_callable_and_with_too_few_outcomes(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order)
    charge_fake = env.fake("charge", lambda order: f"r{order}")

    async def shipped(order: int, receipt: str) -> str:
        await asyncio.sleep(0)
        return f"{order} shipped for {receipt}"

    env.fake(ship, shipped)
    run = env.start(place_order, 1)
    run.signal("decision", "approve")
    assert run.result() == "1 shipped for r1"
    assert len(charge_fake.calls) == 1
    with pytest.raises(DefinitionError, match=r"has a step 'chrage'; their steps are: .*charge"):
        env.fake("chrage", None)
    env.fake(charge, [TransientError("bank")])
    with pytest.raises(AssertionError, match=r"has 1 outcomes, and charge attempt 2 needs another(.|\n)*history of"):
        env.run(place_order, 2)


def test_refusals_are_those_of_a_client(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order)
    env.fake(charge, "r")
    with pytest.raises(PayloadError, match="int"):
        env.start(place_order, "seven")  # type: ignore[misc]
    run = env.start(place_order, 1, id="one")
    with pytest.raises(AlreadyStarted):
        env.start(place_order, 2, id="one")
    with pytest.raises(InvalidRequest, match="data"):
        run.signal("decision", 5)
    with pytest.raises(InvalidRequest, match=r'declares the signals decision, but not "decisoin"'):
        run.signal("decisoin", "approve")
    with pytest.raises(DefinitionError, match="nap is not served in this test"):
        env.start(nap)


def test_the_history_has_assertions_and_replays(mendflow_env: NewEnvironment, tmp_path: object) -> None:
    env = mendflow_env(mixed)
    run = env.start(mixed, 3)
    run.signal("go", "on")
    assert run.result() == ["A3", "B3", "ON TRUE 36 TRUE"]
    history = run.history
    history.assert_steps({"gather[0]/note": 1, "gather[1]/note": 1, "note": 1})
    history.assert_events("workflow_started", "timer_fired", "attempt_started:note:1", "workflow_succeeded")
    with pytest.raises(AssertionError, match=r"no event timer_fired after signal_taken\nhistory of mixed mixed-1:\n"):
        history.assert_events("signal_taken", "timer_fired")
    with pytest.raises(AssertionError, match=r"must be note: 2, not gather\[0\]/note: 1, .*\nhistory of mixed"):
        history.assert_steps({"note": 2})
    with pytest.raises(ValueError, match="must begin with a kind of event"):
        history.assert_events("attempt_begun")
    assert run.replay().ending == "returned"
    history.save(f"{tmp_path}/mixed.json")
    assert replay(mixed, f"{tmp_path}/mixed.json").unclaimed == ()


def test_changed_code_is_found_after_a_long_wait(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(changing)
    run = env.start(changing)
    with pytest.raises(StillOpen, match="PAUSED"):
        run.result()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_workflow_called_by_hand_does_what_the_engine_does(scenario: str, mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(everything, attempt_timeout=10_000)
    run = env.start(everything, scenario)
    if scenario == "signals":
        run.signal("go", [1])
        run.signal("go", [2, 3])
    on_engine = said = ""
    try:
        on_engine = f"returned {run.result()}"
    except WorkflowFailed as error:
        on_engine = f"raised {error.failure.type.rpartition('.')[2]}: {error.failure.message}"
    with by_hand(signals={"go": [[1], [2, 3]]}) as hand:
        try:
            said = f"returned {asyncio.run(everything(scenario))}"
        except Exception as error:  # noqa: BLE001 - compared with the engine's
            said = f"raised {type(error).__name__}: {error}"
    assert said == on_engine
    assert hand.attempts == run.history.steps


async def test_an_async_test_has_the_engine_on_its_loop() -> None:
    loop = asyncio.get_running_loop()
    async with WorkflowTest(place_order) as env:
        assert isinstance(env, AsyncEnvironment)
        on_loop = []

        async def charged(order: int) -> str:
            on_loop.append(asyncio.get_running_loop() is loop)
            return f"r{order}"

        env.fake(charge, charged)
        run = await env.start(place_order, 1)
        result = asyncio.create_task(run.result())
        await run.signal("decision", "approve")
        assert await result == "1 with r1"
        assert on_loop == [True]
        (await run.history()).assert_steps({"charge": 1, "ship": 1})


async def test_an_async_test_can_use_the_fixture(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(nap)
    assert isinstance(env, Environment)
    assert len(env.run(nap)) == 2


def test_nothing_stays_behind() -> None:
    gc.collect()
    before = set(threading.enumerate())
    with WorkflowTest(busy, place_order) as env:
        env.run(busy)
        env.fake(charge, "r")
        env.start(place_order, 1)
        env.crash()
        assert env.crashes == 1
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


async def test_no_task_stays_behind_on_the_tests_loop() -> None:
    before = asyncio.all_tasks()
    async with WorkflowTest(hanging) as env:
        await env.start(hanging)
        await env.advance(1)
    assert asyncio.all_tasks() - before == set()


@pytest.mark.parametrize("given", ["place_order", 5, None, place_order.function])
def test_a_start_of_something_else_than_a_workflow_is_refused(given: object, mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order)
    for verb in (env.start, env.run):
        with pytest.raises(
            TypeError, match=r"takes a workflow function, not .*; pass the function that @workflow made"
        ):
            verb(given)  # type: ignore[call-overload]


def test_an_id_a_label_or_a_name_that_cannot_be_sent_is_refused(mendflow_env: NewEnvironment) -> None:
    env = mendflow_env(place_order)
    with pytest.raises(InvalidRequest, match="workflow_id must be a string, not 5"):
        env.start(place_order, 1, id=5)  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="workflow_id must not be empty"):
        env.start(place_order, 1, id="")
    with pytest.raises(InvalidRequest, match=r'labels\["a"\] must be a string, not None'):
        env.start(place_order, 1, labels={"a": None})  # type: ignore[dict-item]
    with pytest.raises(InvalidRequest, match="name must be a string, not 5"):
        env.start(place_order, 1).signal(5)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
def test_a_call_after_the_test_is_refused() -> None:
    with WorkflowTest(nap) as env:
        run = env.start(nap)
    for call in (run.result, lambda: run.state, lambda: env.run(nap), env.crash, env.settle, lambda: env.advance(1)):
        with pytest.raises(MendflowError, match="the engine of this test has stopped; call it inside the `with` block"):
            call()
    gc.collect()


async def test_a_call_after_an_async_test_is_refused() -> None:
    async with WorkflowTest(nap) as env:
        run = await env.start(nap)
    for call in (run.result, run.state, lambda: env.run(nap), env.crash, env.settle, lambda: env.advance(1)):
        with pytest.raises(MendflowError, match="the engine of this test has stopped; call it inside the `with` block"):
            await call()


def test_a_test_that_is_not_entered_says_so() -> None:
    test: Any = WorkflowTest(nap)
    for name in ("start", "run", "advance", "now"):
        with pytest.raises(AttributeError, match=rf"has no {name!r}; .*`with WorkflowTest\(...\) as env:`"):
            getattr(test, name)
    assert not hasattr(test, "nothing_like_it")


@pytest.mark.parametrize("name", ["store", "grpc_address", "http_address"])
def test_a_setting_that_the_kit_makes_itself_is_refused(name: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {name: f"sqlite:///{tmp_path}/mine.db"}
    with pytest.raises(TypeError, match=f"WorkflowTest takes no {name}: "):
        WorkflowTest(nap, **given)


def test_a_setting_that_does_not_exist_is_named_as_it_was_given() -> None:
    with (
        pytest.raises(SettingsError, match="nosuch=0: there is no setting with this name"),
        WorkflowTest(nap, nosuch=0),
    ):
        pass
