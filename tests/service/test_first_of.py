"""`first_of`, and `gather` with a limit: on the engine, replayed, and by hand."""

from __future__ import annotations

import asyncio

import pytest

from mendflow import PermanentError, StepFailed, first_of, gather, sleep, step, wait_signal, workflow
from mendflow.testing import WorkflowTest, by_hand

#: What ran, and the most that ran at once.
RAN: list[str] = []
RUNNING: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    RAN.clear()
    RUNNING.clear()


@step
async def works(name: str) -> str:
    """Return the name after some turns of the loop."""
    RAN.append(name)
    RUNNING.append(1)
    try:
        for _ in range(5):
            await asyncio.sleep(0)
        return name
    finally:
        RUNNING[:] = RUNNING[:-1]
        RAN.append(f"{len(RUNNING) + 1} at once")


@step(timeout=None)
async def never() -> None:
    """Run until it is cancelled."""
    RAN.append("never began")
    try:
        await asyncio.Event().wait()
    finally:
        RAN.append("never was cancelled")


@step
async def fails() -> None:
    """Fail for good."""
    raise PermanentError("no")


@workflow
async def decision(hours: int) -> str:
    """Wait for a decision, a deadline or a step."""
    index, value = await first_of(wait_signal("decision", str), sleep(hours=hours), never())
    later = await wait_signal("decision", str, timeout=60)
    return f"{index} {value} then {later}"


@workflow
async def both_came() -> str:
    """Wait for two signals that are there already, then for the one that lost."""
    await works("first")
    index, value = await first_of(wait_signal("a", str), wait_signal("b", str))
    other = await wait_signal("b" if index == 0 else "a", str, timeout=60)
    return f"{index} {value} then {other}"


@workflow
async def failing_taker() -> str:
    """Fail in the branch that gets its signal first, then wait for the other one."""
    await works("first")

    async def fails_with_signal() -> None:
        raise ValueError(await wait_signal("a", str))

    try:
        await gather(fails_with_signal(), wait_signal("b", str))
    except ValueError as error:
        return f"{error} then {await wait_signal('b', str, timeout=60)}"
    return "did not fail"


@workflow
async def rejected() -> str:
    """Fail with the first one."""
    try:
        await first_of(fails(), sleep(hours=1))
    except StepFailed as error:
        return f"{error.step_key} failed"
    return "nothing failed"


@workflow
async def limited(limit: int) -> list[str]:
    """Run eight steps, so many at once."""
    return await gather(*(works(str(number)) for number in range(8)), limit=limit)


@workflow
async def limited_failure() -> str:
    """Fail in the second branch, while two have not begun."""
    try:
        await gather(works("a"), fails(), works("c"), works("d"), limit=1)
    except StepFailed:
        return "failed"
    return "did not fail"


@workflow
async def at_once() -> str:
    """Have a branch that ends before the others begin."""

    async def ready() -> int:
        return 7

    index, value = await first_of(ready(), works("late"))
    return f"{index} {value}"


ALL = (decision, both_came, failing_taker, rejected, limited, limited_failure, at_once)


def test_the_first_signal_wins_and_the_others_are_withdrawn() -> None:
    with WorkflowTest(*ALL) as env:
        run = env.start(decision, 5)
        run.signal("decision", "yes")
        run.signal("decision", "later")
        assert run.result() == "0 yes then later"
        assert "never was cancelled" in RAN
        run.replay()


@pytest.mark.parametrize(("sent", "result"), [("ab", "0 A then B"), ("ba", "1 B then A")])
def test_the_oldest_signal_wins_and_the_other_one_is_kept(sent: str, result: str) -> None:
    with WorkflowTest(*ALL) as env:
        env.fake(works, lambda name: asyncio.sleep(0.05, name))
        run = env.start(both_came)
        for name in sent:
            run.signal(name, name.upper())
        assert run.result() == result
        run.replay()


def test_a_branch_that_is_cancelled_takes_no_signal() -> None:
    with WorkflowTest(*ALL) as env:
        env.fake(works, lambda name: asyncio.sleep(0.05, name))
        run = env.start(failing_taker)
        run.signal("a", "A")
        run.signal("b", "B")
        assert run.result() == "A then B"
        run.replay()


def test_the_timer_wins_when_no_signal_comes() -> None:
    with WorkflowTest(*ALL) as env:
        run = env.start(decision, 5)
        env.advance(5 * 3600)
        run.signal("decision", "late")
        assert run.result() == "1 None then late"
        run.replay()


def test_the_error_of_the_first_one_is_raised() -> None:
    with WorkflowTest(*ALL) as env:
        run = env.start(rejected)
        assert run.result() == "first_of[0]/fails failed"
        run.replay()


@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_a_limited_gather_runs_so_many_at_once_and_keeps_the_order_of_results(limit: int) -> None:
    with WorkflowTest(*ALL) as env:
        run = env.start(limited, limit)
        assert run.result() == [str(number) for number in range(8)]
        assert max(int(each.split()[0]) for each in RAN if each.endswith("at once")) == min(limit, 8)
        run.replay()


def test_a_failed_branch_drops_those_that_have_not_begun() -> None:
    with WorkflowTest(*ALL) as env:
        run = env.start(limited_failure)
        assert run.result() == "failed"
        assert [each for each in RAN if len(each) == 1] == ["a"]
        run.replay()


def test_a_branch_that_ends_at_once_keeps_the_others_from_beginning() -> None:
    with WorkflowTest(*ALL) as env:
        assert env.run(at_once) == "0 7"
        assert RAN == []


def test_a_cancel_ends_a_limited_gather_without_its_rest() -> None:
    with WorkflowTest(*ALL) as env:
        env.fake(works, lambda name: asyncio.Event().wait())
        run = env.start(limited, 2)
        run.cancel()
        with pytest.raises(Exception, match="cancelled"):
            run.result()
        assert run.history.attempts(works) == 2


@pytest.mark.parametrize("point", ["attempt_succeeded:gather[1]/works", "attempt_started:gather[5]/works"])
def test_a_crash_in_a_limited_gather_changes_nothing(point: str) -> None:
    with WorkflowTest(*ALL) as env:
        env.crash_at(point)
        assert env.run(limited, 2) == [str(number) for number in range(8)]


async def test_by_hand_they_do_the_same() -> None:
    with by_hand(signals={"decision": ["yes", "later"]}):
        assert await decision(5) == "0 yes then later"
    assert await limited(2) == [str(number) for number in range(8)]
    assert max(int(each.split()[0]) for each in RAN if each.endswith("at once")) == 2
    assert await rejected() == "first_of[0]/fails failed"
    assert await limited_failure() == "failed"
    assert await at_once() == "0 7"


async def test_outside_a_workflow_they_use_tasks() -> None:
    async def waits(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert await first_of(waits(60), waits(0.01)) == (1, 0.01)
    assert await gather(*(waits(0) for _ in range(3)), limit=2) == [0, 0, 0]


def test_limits_and_empty_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="lets no branch run"):
        gather(limit=0)
    with pytest.raises(ValueError, match="at least one call"):
        first_of()
