"""Calls that workflow code makes and does not await: the server always reports them."""

from __future__ import annotations

from typing import Any

import pytest

from mendflow import StepFailed, gather, sleep, step, wait_signal, workflow
from mendflow.errors import NotAwaited
from tests.support.simulation import Simulation


@step
async def ship(item: str) -> str:
    return item


@step
async def is_ok(item: str) -> bool:
    return True


def ended(definition: Any) -> Simulation:
    live = Simulation(definition).begin()
    while not live.run.done:
        live.settle(next(iter(live.history.open)))
    return live


def test_a_call_that_is_forgotten_fails_the_workflow_and_is_named() -> None:
    @workflow
    async def forgets() -> str:
        ship("lamp")
        await ship("desk")
        return "shipped"

    live = ended(forgets)
    assert isinstance(live.run.error, NotAwaited)
    assert str(live.run.error) == "the workflow ended without awaiting step ship(); write `await` before each"


def test_each_kind_of_call_is_named_and_a_gather_stands_for_its_branches() -> None:
    @workflow
    async def forgets() -> None:
        _kept = [ship("a"), sleep(1), wait_signal("go"), gather(ship("b"), ship("c"))]

    message = str(ended(forgets).run.error)
    assert "step ship(), sleep(), wait_signal('go'), gather();" in message


def test_many_forgotten_calls_are_named_in_short() -> None:
    @workflow
    async def forgets() -> None:
        for _ in range(1_000):
            ship("a")

    message = str(ended(forgets).run.error)
    assert message.count("ship()") == 10
    assert "and 990 more" in message


def test_an_awaited_call_is_not_forgotten_however_it_is_awaited() -> None:
    @workflow
    async def remembers() -> list[Any]:
        first, second = ship("a"), ship("b")
        pair = await gather(first, gather(second, ship("c")))
        later = sleep(1)
        await later
        return [pair, await gather(*(ship(item) for item in "de")), await gather()]

    live = ended(remembers)
    assert live.run.error is None


def test_a_branch_that_never_began_is_not_forgotten() -> None:
    @workflow
    async def fails() -> str:
        async def refused() -> None:
            raise ValueError("at once")

        async def later() -> None:
            await ship("never")

        try:
            await gather(ship("first"), refused(), ship("second"), gather(ship("third"), later()), later())
        except ValueError:
            return "caught"
        return "not reached"

    live = Simulation(fails).begin()
    assert (live.run.value, live.run.error) == ("caught", None)


@pytest.mark.parametrize("how", ["if", "not", "and", "bool"])
def test_the_truth_value_of_a_call_raises_at_its_line(how: str) -> None:
    @workflow
    async def careless() -> str:
        if how == "if":
            return "yes" if is_ok("x") else "no"  # type: ignore[truthy-bool]
        if how == "not":
            return str(not is_ok("x"))  # type: ignore[truthy-bool]
        if how == "and":
            return str(is_ok("x") and "yes")  # type: ignore[truthy-bool]
        return str(bool(is_ok("x")))

    error = Simulation(careless).begin().run.error
    assert isinstance(error, NotAwaited)
    assert str(error) == "step is_ok() was used as a condition before it was awaited; write `await` before it"


def test_the_truth_value_of_a_wait_raises_outside_a_workflow_too() -> None:
    with pytest.raises(NotAwaited, match=r"sleep\(\) was used as a condition"):
        assert sleep(1)  # type: ignore[truthy-bool]


def test_a_workflow_that_fails_by_itself_says_why_it_failed() -> None:
    @workflow
    async def fails() -> None:
        ship("forgotten")
        raise ValueError("the cause")

    assert isinstance(ended(fails).run.error, ValueError)


def test_a_replay_decides_on_forgotten_calls_as_the_first_run_did() -> None:
    @workflow
    async def forgets() -> str:
        ship("lamp")
        try:
            return await ship("desk")
        except StepFailed:
            return "failed"

    live = Simulation(forgets).begin()
    again = Simulation(forgets, events=live.all_events).begin()
    again.settle("ship")
    assert isinstance(again.run.error, NotAwaited)


def caught(definition: Any) -> Simulation:
    """Fail each step in turn, and return the ended run."""
    live = Simulation(definition).begin()
    while not live.run.done:
        live.settle(next(iter(live.history.open)), fail=True)
    return live


def test_a_call_that_is_kept_when_an_exception_passes_is_not_forgotten() -> None:
    @workflow
    async def declines() -> str:
        try:
            later = ship("later")
            await ship("first")
            await later
        except StepFailed:
            return "declined"
        return "shipped"

    assert (caught(declines).run.value, caught(declines).run.error) == ("declined", None)


def test_a_call_in_a_branch_that_is_cancelled_or_never_begins_is_not_forgotten() -> None:
    @workflow
    async def declines() -> str:
        async def holds() -> None:
            later = ship("later")
            await sleep(60)
            await later

        async def then(call: Any) -> None:
            await call

        async def refused() -> None:
            raise ValueError("at once")

        for branches in ([holds(), ship("fails")], [refused(), then([ship("never")])]):
            try:
                await gather(*branches)
            except (StepFailed, ValueError):
                continue
        return "declined"

    live = Simulation(declines).begin()
    live.settle("gather[1]/ship", fail=True)
    assert (live.run.value, live.run.error) == ("declined", None)


def test_a_call_that_nothing_keeps_is_forgotten_also_when_an_exception_passes() -> None:
    @workflow
    async def forgets() -> str:
        ship("lost")
        try:
            await ship("first")
        except StepFailed:
            return "declined"
        return "shipped"

    assert "step ship()" in str(caught(forgets).run.error)
