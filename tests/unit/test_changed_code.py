"""Replay of changed code: claims, versions, and drives that are undone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import gather, now, sleep, step, version, wait_signal, workflow
from mendflow.errors import DefinitionError
from mendflow_server.history.state import History
from mendflow_server.replay.workflow_runner import NonDeterminism
from tests.support.simulation import Simulation

if TYPE_CHECKING:
    from mendflow import Workflow


@step
async def work(name: str) -> str:
    return name


@step
async def other(name: str) -> str:
    return name


@step
async def extra() -> str:
    return "extra"


@workflow
async def two_steps() -> str:
    await work("one")
    return await work("two")


@workflow
async def waits() -> str:
    await work("one")
    await other("two")
    await wait_signal("go")
    return await work("three")


def recorded(old: Workflow[Any, Any], *settled: str) -> list[Any]:
    """Return the events of the old code once these calls have their outcomes."""
    live = Simulation(old).begin()
    for key in settled:
        live.settle(key)
    return live.all_events


def keys(simulation: Simulation) -> list[str]:
    return sorted(simulation.run.wanted)


# Versions.


def versioned() -> Workflow[Any, Any]:
    @workflow
    async def after() -> str:
        await work("one")
        await (extra() if version("twice") else other("two"))
        await wait_signal("go")
        return "later" if version("late") else "before"

    return after


def test_a_version_is_true_and_recorded_for_a_new_workflow() -> None:
    live = Simulation(versioned()).begin()
    live.settle("work")
    assert live.history.calls["version:twice"].outcome is not None
    again = Simulation(versioned(), events=live.all_events).begin()
    assert keys(again) == ["extra"]
    assert again.builder.pending == []


def test_a_version_is_false_and_not_recorded_while_recorded_calls_are_ahead() -> None:
    again = Simulation(versioned(), events=recorded(waits, "work", "other")).begin()
    assert keys(again) == []
    assert "version:twice" not in again.history.calls
    again.settle("signal:go")
    assert again.run.value == "later", "decided after everything recorded was claimed"
    assert "version:late" in again.history.calls


def test_a_version_is_decided_once_however_often_it_is_asked() -> None:
    @workflow
    async def loops() -> list[bool]:
        found = []
        for _ in range(3):
            found.append(version("new"))
            await work("again")
        return found

    @workflow
    async def looped() -> None:
        for _ in range(3):
            await work("again")

    again = Simulation(loops, events=recorded(looped, "work")).begin()
    again.settle("work#2")
    again.settle("work#3")
    assert again.run.value == [False, False, False]


def test_a_version_may_be_asked_in_branches_and_dropped_from_the_code() -> None:
    @workflow
    async def asks() -> tuple[bool, bool]:
        async def branch() -> bool:
            decided = version("new")
            await work("x")
            return decided

        return await gather(branch(), branch())

    @workflow
    async def asks_no_more() -> None:
        async def branch() -> None:
            await work("x")

        await gather(branch(), branch())

    events = recorded(asks)
    assert sum(event.value_recorded.key == "version:new" for event in events) == 1
    assert keys(Simulation(asks_no_more, events=events).begin()) == ["gather[0]/work", "gather[1]/work"]


def test_a_version_outside_a_workflow_is_true_and_its_name_is_checked() -> None:
    assert version("anything") is True
    with pytest.raises(DefinitionError, match="version 'no spaces'"):
        version("no spaces")


# Claims.


def test_an_end_that_leaves_recorded_calls_unclaimed_is_refused() -> None:
    @workflow
    async def shorter() -> str:
        return "early"

    @workflow
    async def raises() -> None:
        raise RuntimeError("new bug")

    events = recorded(two_steps, "work")
    with pytest.raises(
        NonDeterminism, match=r"returned before awaiting 2 calls .*: step work \(event 2\), step work#2 \(event 4\)"
    ):
        Simulation(shorter, events=events).begin()
    with pytest.raises(NonDeterminism, match="workflow raised RuntimeError before"):
        Simulation(raises, events=events).begin()


def test_many_unclaimed_calls_are_named_in_short() -> None:
    @workflow
    async def many() -> None:
        await gather(*(work(str(index)) for index in range(50)))

    @workflow
    async def none() -> None: ...

    with pytest.raises(NonDeterminism, match=r"workflow returned before .*gather\[9\]/work \(event 11\) and 40 more\."):
        Simulation(none, events=recorded(many)).begin()


def test_values_are_no_calls_and_may_be_added_or_removed() -> None:
    @workflow
    async def with_values() -> None:
        now()
        await work("one")
        await sleep(5)

    @workflow
    async def without_values() -> None:
        await work("one")
        await sleep(5)

    Simulation(without_values, events=recorded(with_values, "work")).begin()
    Simulation(with_values, events=recorded(without_values, "work")).begin()


@pytest.mark.parametrize("then", ["returns", "raises", "blocks"])
@pytest.mark.parametrize("in_branch", [False, True])
def test_a_value_under_the_key_of_a_call_is_refused_whatever_the_code_catches(then: str, *, in_branch: bool) -> None:
    @workflow
    async def old() -> None:
        await gather(work.with_options(key="now")("one"), return_exceptions=True)

    async def catches() -> str:
        try:
            now()
        except BaseException as error:
            if then == "raises":
                raise RuntimeError("hidden") from error
        return await work("two") if then == "blocks" else "hidden"

    @workflow
    async def alone() -> object:
        return await catches()

    @workflow
    async def branch() -> object:
        return await gather(catches(), return_exceptions=True)

    @workflow
    async def old_alone() -> None:
        await work.with_options(key="now")("one")

    events = recorded(old) if in_branch else recorded(old_alone)
    again = Simulation(branch if in_branch else alone, events=events)
    with pytest.raises(NonDeterminism, match=r"\(event 2\): recorded as step, called as a value"):
        again.begin()
    assert not again.run.done


def test_a_marked_call_of_a_name_that_is_recorded_says_that_it_needs_a_key() -> None:
    @workflow
    async def inserted() -> None:
        await work("one")
        await work.with_options(inserted=True)("between")
        await work("two")

    with pytest.raises(NonDeterminism, match="needs its own key"):
        Simulation(inserted, events=recorded(two_steps, "work")).begin()


def test_a_marked_call_runs_before_recorded_ones_and_replays_ever_after() -> None:
    @workflow
    async def inserted() -> None:
        await work("one")
        await extra.with_options(inserted=True)()
        await other("two")
        await wait_signal("go")

    again = Simulation(inserted, events=recorded(waits, "work", "other")).begin()
    assert keys(again) == ["extra"]
    assert again.run.unclaimed == ["step other (event 4)", "signal wait signal:go (event 6)"]
    again.settle("extra")
    assert again.run.unclaimed == []
    later = Simulation(inserted, events=again.all_events).begin()
    later.settle("signal:go")
    assert later.run.done


def test_a_marked_call_that_has_run_and_is_moved_may_not_run_again() -> None:
    def definition(*, moved: bool) -> Workflow[Any, Any]:
        @workflow
        async def inserted() -> None:
            await work("one")
            marked = extra.with_options(inserted=True)
            await (gather(marked(), key="more") if moved else marked())
            await other("two")
            await wait_signal("go")

        return inserted

    again = Simulation(definition(moved=False), events=recorded(waits, "work", "other")).begin()
    again.settle("extra")
    with pytest.raises(
        NonDeterminism, match=r"more\[0\]/extra \(marked as inserted, but it may be the recorded step extra\)"
    ):
        Simulation(definition(moved=True), events=again.all_events).begin()


def test_a_key_that_belongs_to_a_version_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must not begin with 'version:'"):
        work.with_options(key="version:new")


def test_a_step_may_have_the_name_of_a_version() -> None:
    @workflow
    async def both() -> bool:
        decided = version("work")
        await work("one")
        return decided

    live = Simulation(both).begin()
    live.settle("work")
    assert live.run.value is True


# Drives that are undone.


def test_a_drive_that_cannot_continue_leaves_the_history_as_it_was() -> None:
    @workflow
    async def changed() -> None:
        await work("one")
        now()
        await gather(sleep(1), wait_signal("go"), wait_signal("stay"), extra())

    events = recorded(waits, "work", "other")
    again = Simulation(changed, events=events)
    with pytest.raises(NonDeterminism, match=r"step other \(event 4\)"):
        again.begin()
    assert again.builder.pending == []
    expected = History.of(event.SerializeToString() for event in events)
    assert again.history.calls.keys() == expected.calls.keys()
    assert again.history.open.keys() == expected.open.keys()
    assert again.history.last_sequence == expected.last_sequence


def test_a_taken_signal_goes_back_to_its_place_in_the_mailbox() -> None:
    @workflow
    async def without_other() -> None:
        await work("one")
        await wait_signal("go")
        await extra()

    again = Simulation(without_other, events=recorded(waits, "work", "other")).begin()
    for text in ("first", "second"):
        event = again.builder.new()
        event.signal_received.name = "go"
        event.signal_received.data.json = f'"{text}"'
        again.builder.add(event)
    before = list(again.history.mailbox["go"])
    with pytest.raises(NonDeterminism, match="step extra"):
        again.drive(again.run.signal_recorded, "go")
    assert list(again.history.mailbox["go"]) == before
    assert "signal:go" in again.history.open


# Other exceptions out of workflow code.


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, RecursionError])
def test_whatever_workflow_code_raises_fails_the_workflow(raised: type[BaseException]) -> None:
    @workflow
    async def raises() -> None:
        await sleep(1)
        raise raised

    live = Simulation(raises).begin()
    live.settle("sleep")
    assert live.run.done
    assert isinstance(live.run.error, raised)


def test_a_finally_that_raises_anything_does_not_keep_a_run_from_being_dropped() -> None:
    @workflow
    async def raises() -> None:
        try:
            await sleep(1)
        finally:
            raise KeyboardInterrupt

    live = Simulation(raises).begin()
    live.run.close()
    assert not live.run.done


@pytest.mark.parametrize("depth", [400, 3_000])
@pytest.mark.parametrize("ending", ["at once", "later", "fails", "cancelled"])
def test_gathers_may_be_nested_to_any_depth(depth: int, ending: str) -> None:
    @workflow
    async def nested() -> str:
        call: Any = extra()
        for _ in range(depth):
            call = gather(call, _ended())
        await call
        return "whole"

    live = Simulation(nested).begin()
    key = "gather[0]/" * depth + "extra"
    if ending == "cancelled":
        event = live.builder.new()
        event.cancel_requested.actor = "test"
        live.builder.add(event)
        live.drive(live.run.cancel_recorded)
        live.settle(key)
        assert isinstance(live.run.error, asyncio.CancelledError)
        return
    again = Simulation(nested, events=live.all_events).begin()
    if ending == "at once":
        again.run.close()
        return
    again.settle(key, fail=ending == "fails")
    assert again.run.done
    assert (again.run.value == "whole") == (ending == "later")


async def _ended() -> None:
    """A branch that ends at once."""
