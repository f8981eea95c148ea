"""A workflow called by hand behaves as on the engine, without a server and without waiting."""

from __future__ import annotations

import asyncio
import decimal
import gc
import time
import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mendflow import (
    PermanentError,
    RetryPolicy,
    SignalTimeout,
    StepFailed,
    TransientError,
    attempt,
    gather,
    now,
    progress,
    random,
    sleep,
    step,
    uuid4,
    version,
    wait_signal,
    workflow,
)
from mendflow.errors import NotAwaited, NotDurable, NotInWorkflow, PayloadError
from mendflow.testing import by_hand
from mendflow.v1 import failure_pb2

#: What the steps below saw: the attempt's number and idempotency key.
seen: list[tuple[int, str]] = []

TENANT: ContextVar[str] = ContextVar("tenant", default="none")


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


@step(retry=RetryPolicy(max_attempts=4, initial_interval=60))
async def charge(fail: int) -> str:
    this = attempt()
    seen.append((this.number, this.idempotency_key))
    if this.number <= fail:
        this.heartbeat({"failed": this.number})
        raise TransientError("bank")
    return f"receipt {this.step_key} {this.last_heartbeat}"


@step
def double(number: int) -> int:
    return number * 2


@step
async def reject() -> None:
    seen.append((attempt().number, ""))
    raise PermanentError("no such account")


@step(timeout=0.02, retry=RetryPolicy(max_attempts=2))
async def hang() -> None:
    seen.append((attempt().number, attempt().idempotency_key))
    await asyncio.Event().wait()


@workflow
async def pay(fail: int) -> str:
    return await charge(fail)


async def test_a_step_is_retried_without_waiting_under_one_key() -> None:
    began = time.monotonic()
    assert await pay(3) == "receipt charge {'failed': 3}"
    assert time.monotonic() - began < 5
    assert [number for number, _ in seen] == [1, 2, 3, 4]
    assert len({key for _, key in seen}) == 1


def test_used_up_retries_fail_the_step_with_its_failure() -> None:
    with pytest.raises(StepFailed, match=r"step charge failed: mendflow\.errors\.TransientError: bank") as caught:
        asyncio.run(pay(4))
    assert len(seen) == 4
    assert caught.value.step_key == "charge"
    assert caught.value.failure.kind == failure_pb2.FAILURE_KIND_TRANSIENT
    assert caught.value.failure.step_key == "charge"
    assert isinstance(caught.value.__cause__, TransientError)


async def test_a_permanent_failure_is_not_retried_and_code_can_catch_it() -> None:
    @workflow
    async def careful() -> str:
        try:
            await reject()
        except StepFailed as error:
            return error.failure.message
        return "paid"

    assert await careful() == "no such account"
    assert len(seen) == 1


async def test_the_total_time_of_a_policy_counts_skipped_delays() -> None:
    @workflow
    async def hurried() -> str:
        policy = RetryPolicy(max_attempts=None, initial_interval=100, maximum_interval=100, total_time=1_000)
        return await charge.with_options(retry=policy)(10**6)

    with pytest.raises(StepFailed):
        await hurried()
    assert 5 < len(seen) < 500


async def test_a_step_that_pauses_the_workflow_ends_the_call() -> None:
    @workflow
    async def paused() -> str:
        policy = RetryPolicy(max_attempts=2, initial_interval=0, on_exhaustion="pause")
        try:
            return await charge.with_options(retry=policy)(9)
        except StepFailed:
            return "the code must not see it"

    with pytest.raises(StepFailed) as caught:
        await paused()
    assert "pauses the workflow" in caught.value.__notes__[0]


async def test_a_timeout_of_a_step_is_a_failed_attempt() -> None:
    @workflow
    async def patient() -> None:
        await hang()

    with pytest.raises(StepFailed, match=r"exceeded its timeout of 0\.02 s") as caught:
        await patient()
    assert caught.value.failure.kind == failure_pb2.FAILURE_KIND_TIMEOUT
    assert len(seen) == 2


async def test_sleeps_are_skipped_and_now_follows_them() -> None:
    @workflow
    async def nap() -> list[str]:
        first = now()
        await gather(sleep(hours=2), sleep(hours=1))
        await sleep(30)
        return [first.isoformat(), now().isoformat()]

    with by_hand(start_time=datetime(2030, 1, 31, tzinfo=UTC)):
        assert await nap() == ["2030-01-31T00:00:00+00:00", "2030-01-31T02:00:30+00:00"]
    first, last = await nap()
    assert datetime.fromisoformat(last) - datetime.fromisoformat(first) == timedelta(seconds=7_230)


@dataclass
class Decision:
    approved: bool


@workflow(signals={"decision": Decision})
async def decide(order: int) -> str:
    try:
        decision = await wait_signal("decision", Decision, timeout=3_600)
    except SignalTimeout:
        return f"{order}: no decision"
    return f"{order}: {decision.approved}"


async def test_signals_are_handed_in_and_taken_in_order() -> None:
    with by_hand(signals={"decision": [Decision(approved=True), {"approved": False}]}):
        assert await decide(1) == "1: True"
        assert await decide(2) == "2: False"
        assert await decide(3) == "3: no decision"
    assert await decide(4) == "4: no decision"
    with by_hand(signals={"decision": ["yes"]}), pytest.raises(PayloadError, match="Decision"):
        await decide(5)
    with pytest.raises(
        TypeError, match=r"signals\['decision'\] must be a list with the data of each signal, not 'yes'"
    ):
        by_hand(signals={"decision": "yes"})


async def test_a_signal_that_never_comes_is_reported_with_what_to_do() -> None:
    cleaned = []

    @workflow
    async def waits() -> None:
        try:
            await wait_signal("go")
        finally:
            cleaned.append(1)

    with pytest.raises(NotInWorkflow, match=r"waits waits for signal 'go' .*by_hand\(signals=\{'go': \[\.\.\.\]\}\)"):
        await waits()
    assert cleaned == [1]


async def test_a_gather_cancels_the_other_branches_when_one_fails() -> None:
    ends: list[str] = []

    async def branch() -> None:
        try:
            await sleep(hours=1)
        except asyncio.CancelledError:
            ends.append(str(await double(4)))
            raise

    @workflow
    async def both() -> None:
        await gather(branch(), reject())

    with pytest.raises(StepFailed, match=r"gather\[1\]/reject"):
        await both()
    assert ends == ["8"]


async def test_a_gather_can_return_exceptions() -> None:
    @workflow
    async def all_of_them() -> list[str]:
        results: Any = await gather(double(1), reject(), double(3), return_exceptions=True)
        assert await gather() == []
        return [type(each).__name__ if isinstance(each, Exception) else str(each) for each in results]

    assert await all_of_them() == ["2", "StepFailed", "6"]


async def test_steps_run_side_by_side() -> None:
    begun = asyncio.Event()

    @step
    async def waits() -> str:
        await begun.wait()
        return "waited"

    @step
    async def begins() -> str:
        begun.set()
        return "begun"

    @workflow
    async def both() -> list[str]:
        return list(await gather(waits(), begins()))

    assert await both() == ["waited", "begun"]


async def test_values_and_versions() -> None:
    @workflow
    async def values() -> list[Any]:
        progress(1, 2)
        assert now().tzinfo is not None
        return [uuid4() != uuid4(), 0 <= random() < 1, version("new"), version("new")]

    assert await values() == [True, True, True, True]
    with by_hand(versions={"new": False}):
        assert await values() == [True, True, False, False]


async def test_what_the_engine_refuses_is_refused() -> None:
    @workflow
    async def forgetful() -> None:
        double(1)

    @workflow
    async def foreign() -> None:
        await asyncio.sleep(0.01)

    @workflow
    async def wrong() -> None:
        await double("x")  # type: ignore[arg-type]

    @step
    async def mistyped() -> int:
        return "text"  # type: ignore[return-value]

    @step(retry=RetryPolicy(max_attempts=1))
    async def leaves() -> None:
        raise SystemExit(3)

    @workflow
    async def believes() -> int:
        return await mistyped()

    @workflow
    async def exits() -> None:
        await leaves()

    with pytest.raises(StepFailed, match="SystemExit"):
        await exits()
    with pytest.raises(NotAwaited, match=r"step double\(\)"):
        await forgetful()
    with pytest.raises(NotDurable, match=r"asyncio\.tasks\.sleep"):
        await foreign()
    with pytest.raises(PayloadError):
        await wrong()
    with pytest.raises(StepFailed, match="PayloadError"):
        await believes()
    with pytest.raises(PayloadError, match="int"):
        await pay("seven")


async def test_a_workflow_inside_another_is_part_of_it_and_inside_a_step_runs_by_itself() -> None:
    @step
    async def nested() -> str:
        return await pay(0)

    @workflow
    async def outer() -> list[str]:
        return [await pay(0), await pay(0), await nested()]

    assert await outer() == ["receipt charge None", "receipt charge#2 None", "receipt charge None"]
    assert double(2) == 4, "and afterwards a step is the function again"  # type: ignore[comparison-overlap]


async def test_a_cancelled_caller_cancels_the_workflow() -> None:
    ends: list[str] = []
    begun = asyncio.Event()

    @step
    async def waits() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ends.append("step")

    @workflow
    async def cleans_up() -> None:
        try:
            await waits()
        except asyncio.CancelledError:
            ends.append(f"clean-up {await double(2)}")
            raise

    calling = asyncio.ensure_future(cleans_up())
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ends == ["step", "clean-up 4"]


async def test_an_outcome_of_pytest_leaves_a_step_at_once() -> None:
    @step
    async def skips() -> None:
        pytest.skip("not here")

    @workflow
    async def skipping() -> None:
        await skips()

    with pytest.raises(BaseException, match="not here") as caught:
        await skipping()
    assert not isinstance(caught.value, Exception)


async def test_by_hand_counts_the_attempts_and_takes_signals_from_steps() -> None:
    with by_hand() as hand:

        @step
        async def sends() -> None:
            hand.signal("go", 7)

        @workflow
        async def both() -> int:
            await charge(1)
            _, number = await gather(sends(), wait_signal("go", int))
            return number

        assert await both() == 7
        assert hand.attempts == {"charge": 2, "gather[0]/sends": 1}


# Context variables, as in test_contexts.py.


async def test_a_branch_sees_what_its_owner_set_and_no_other_branchs_values() -> None:
    async def branch(name: str) -> list[str]:
        found = [TENANT.get()]
        TENANT.set(name)
        await double(1)
        return [*found, TENANT.get()]

    async def nested(name: str) -> list[object]:
        TENANT.set(name)
        return [*await gather(branch(f"{name}1"), branch(f"{name}2")), TENANT.get()]

    @workflow
    async def shops() -> list[object]:
        TENANT.set("owner")
        return [*await gather(branch("a"), nested("b"), limit=1), TENANT.get()]

    a, b, owner = ["owner", "a"], [["b", "b1"], ["b", "b2"], "b"], "owner"
    assert await shops() == [a, b, owner]
    assert TENANT.get() == "none"


async def test_the_decimal_context_of_one_branch_is_not_that_of_another() -> None:
    @workflow
    async def divides() -> list[str]:
        async def divide(digits: int) -> str:
            with decimal.localcontext(prec=digits):
                await double(1)
                return str(decimal.Decimal(1) / 3)

        return [*await gather(divide(2), divide(5))]

    assert await divides() == ["0.33", "0.33333"]


async def test_the_clean_up_of_a_branch_sees_its_own_values() -> None:
    seen_by: list[str] = []

    async def hold(name: str) -> None:
        token = TENANT.set(name)
        try:
            await wait_signal("never")
        finally:
            seen_by.append(TENANT.get())
            TENANT.reset(token)

    @workflow
    async def cancels() -> None:
        await gather(hold("a"), hold("b"), reject())

    with pytest.raises(StepFailed):
        await cancels()
    assert sorted(seen_by) == ["a", "b"]

    @workflow
    async def stuck() -> None:
        await gather(hold("c"), hold("d"))

    with pytest.raises(NotInWorkflow, match="never"):
        await stuck()
    assert sorted(seen_by) == ["a", "b", "c", "d"]


async def test_memory_of_a_workflow_called_by_hand_is_free_without_the_collector() -> None:
    kept: ContextVar[set[int]] = ContextVar("kept")
    subjects: list[weakref.ref[set[int]]] = []

    @workflow
    async def keeps() -> None:
        value: set[int] = set()
        subjects.append(weakref.ref(value))
        kept.set(value)
        await gather(sleep(1), sleep(2))

    gc.collect()
    gc.disable()
    try:
        await keeps()
        assert [subject() for subject in subjects] == [None]
    finally:
        gc.enable()
