"""Replay: the code makes the same decisions after any prefix of any history."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mendflow import StepFailed, gather, now, random, sleep, step, uuid4, wait_signal, workflow
from mendflow_server.replay.workflow_runner import NonDeterminism
from tests.support.scale import scaled
from tests.support.simulation import Simulation

if TYPE_CHECKING:
    from mendflow import Workflow
    from mendflow.v1 import event_pb2


@step
async def work(name: str) -> str:
    return name


@step
async def other(name: str) -> str:
    return name


# A program is a tree: each leaf is one awaited call, each branch a gather or a sequence.
leaves = st.sampled_from(["work", "other", "sleep", "signal", "now", "random", "caught"])
programs = st.recursive(
    leaves,
    lambda inner: st.tuples(
        st.sampled_from(["gather", "settled", "sequence"]), st.lists(inner, min_size=1, max_size=4)
    ),
    max_leaves=12,
)


async def leaf(program: str, log: list[str]) -> str:
    if program == "sleep":
        await sleep(10)
        answer = "slept"
    elif program == "signal":
        answer = str(await wait_signal("go"))
    elif program == "now":
        answer = f"{now()} {uuid4()}"
    elif program == "random":
        answer = str(random())
    elif program == "caught":
        try:
            answer = await work("may fail")
        except StepFailed as error:
            answer = error.failure.message
    else:
        # The input contains what came before, so another order would be another input.
        answer = await (work if program == "work" else other)(f"after {len(log)}: {log[-1:]}")
    log.append(answer)
    return answer


async def interpret(program: Any, log: list[str]) -> Any:
    if isinstance(program, str):
        return await leaf(program, log)
    kind, parts = program
    if kind == "sequence":
        return [await interpret(part, log) for part in parts]
    branches = [interpret(part, log) for part in parts]
    if kind == "settled":
        return [str(each) for each in await gather(*branches, return_exceptions=True)]
    try:
        return await gather(*branches)
    except StepFailed as error:
        log.append(str(error))
        return str(error)


def definition_of(program: Any) -> Workflow[Any, Any]:
    @workflow
    async def random_program() -> Any:
        return await interpret(program, [])

    return random_program


@settings(max_examples=scaled(80, 2_000), deadline=None)
@given(program=programs, choices=st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40))
def test_every_prefix_replays_to_the_same_decisions(program: Any, choices: list[tuple[int, bool]]) -> None:
    definition = definition_of(program)
    live = Simulation(definition).begin()
    snapshots = [(len(live.all_events), sorted(live.run.wanted), sorted(live.history.open), live.outcome)]
    for index, fail in choices:
        if live.run.done or not live.history.open:
            break
        keys = sorted(live.history.open)
        live.settle(keys[index % len(keys)], fail=fail)
        snapshots.append((len(live.all_events), sorted(live.run.wanted), sorted(live.history.open), live.outcome))
    events = live.all_events
    for length, wanted, opened, outcome in snapshots:
        again = Simulation(definition, events=events[:length]).begin()
        assert again.builder.pending == [], "a replay of what was at rest decides nothing new"
        assert sorted(again.run.wanted) == wanted
        assert sorted(again.history.open) == opened
        assert again.outcome == outcome
    for length in range(1, len(events)):
        # Replayed from the middle of a turn, the code makes the same decisions again.
        again = Simulation(definition, events=events[:length]).begin()
        expected = [event for event in events[length:] if decided_by_code(event)]
        decided = [event for event in again.builder.pending if decided_by_code(event)]
        for event, recorded in zip(decided, expected, strict=False):
            assert same_decision(event, recorded)


def decided_by_code(event: event_pb2.Event) -> bool:
    return event.WhichOneof("detail") in ("timer_started", "signal_awaited", "attempt_started")


def same_decision(one: event_pb2.Event, recorded: event_pb2.Event) -> bool:
    kind = one.WhichOneof("detail")
    if kind != recorded.WhichOneof("detail"):
        return False
    if kind == "attempt_started":
        return (one.attempt_started.step_key, one.attempt_started.step_name) == (
            recorded.attempt_started.step_key,
            recorded.attempt_started.step_name,
        )
    return str(getattr(one, kind or "").key) == str(getattr(recorded, kind or "").key)


def test_the_order_in_which_branches_finish_is_replayed() -> None:
    @workflow
    async def race() -> list[str]:
        order: list[str] = []

        async def branch(name: str) -> None:
            await work(name)
            order.append(name)

        await gather(branch("a"), branch("b"), branch("c"))
        await work(",".join(order))
        return order

    live = Simulation(race).begin()
    for key in ("gather[2]/work", "gather[0]/work", "gather[1]/work"):
        live.settle(key)
    recorded = live.history.open["work"].input
    assert recorded is not None
    assert recorded.json == '{"name":"c,a,b"}'
    again = Simulation(race, events=live.all_events).begin()
    again.settle("work")
    assert again.run.value == ["c", "a", "b"]


def test_gather_cancels_the_others_waits_for_them_and_raises_the_first_failure() -> None:
    closed: list[str] = []

    @workflow
    async def fails_twice() -> None:
        async def watchful() -> None:
            try:
                await work("long")
            finally:
                closed.append("long")

        await gather(watchful(), work("first"), work("second"))

    live = Simulation(fails_twice).begin()
    live.settle("gather[2]/work", fail=True)
    assert not live.run.done, "the others are still open"
    assert sorted(live.run.unwanted) == ["gather[0]/work", "gather[1]/work"]
    live.settle("gather[0]/work")
    live.settle("gather[1]/work")
    assert closed == ["long"]
    assert isinstance(live.run.error, StepFailed)
    assert live.run.error.step_key == "gather[2]/work"


def test_gather_with_return_exceptions_lets_all_finish() -> None:
    @workflow
    async def settled() -> list[str]:
        return [str(each) for each in await gather(work("a"), work("b"), return_exceptions=True)]

    live = Simulation(settled).begin()
    live.settle("gather[0]/work", fail=True)
    assert not live.run.done
    live.settle("gather[1]/work")
    assert "failed" in live.run.value[0]
    assert live.run.value[1].startswith("gather[1]/work")


def changed(old: Workflow[Any, Any], new: Workflow[Any, Any], settled: list[str]) -> Simulation:
    live = Simulation(old).begin()
    for key in settled:
        live.settle(key)
    return Simulation(new, events=live.all_events)


@workflow
async def two_steps() -> str:
    await work("one")
    return await work("two")


def test_another_input_is_non_determinism() -> None:
    @workflow
    async def other_input() -> str:
        await work("uno")
        return await work("two")

    with pytest.raises(NonDeterminism, match=r'recorded input \{"name":"one"\}, called with \{"name":"uno"\}'):
        changed(two_steps, other_input, ["work"]).begin()


def test_another_step_under_the_same_key_is_non_determinism() -> None:
    @workflow
    async def other_type() -> str:
        await other.with_options(key="work")("one")
        return ""

    with pytest.raises(NonDeterminism, match="recorded as step work, called as step other"):
        changed(two_steps, other_type, []).begin()


def test_a_value_is_recorded_once() -> None:
    @workflow
    async def valued() -> list[str]:
        before = [str(now()), str(uuid4()), str(random())]
        await work("one")
        return [*before, str(random())]

    live = Simulation(valued).begin()
    events = live.all_events
    first = Simulation(valued, events=events).begin()
    first.settle("work")
    second = Simulation(valued, events=events).begin()
    second.settle("work")
    assert first.run.value[:3] == second.run.value[:3]
    assert first.run.value[3] != second.run.value[3], "not recorded yet: a new one each time"


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("sleep", "asyncio"),
        ("future", "Future"),
        ("lock", "asyncio.locks"),
    ],
)
async def test_what_cannot_be_replayed_is_refused_at_its_line(how: str, named: str) -> None:
    @workflow
    async def careless() -> None:
        if how == "sleep":
            await asyncio.sleep(1)
        elif how == "future":
            await asyncio.get_running_loop().create_future()
        else:
            lock = asyncio.Lock()
            await lock.acquire()
            await lock.acquire()

    simulation = Simulation(careless).begin()
    assert type(simulation.run.error).__name__ == "NotDurable"
    assert named in str(simulation.run.error)
    assert "mendflow.sleep()" in str(simulation.run.error)


async def test_a_step_in_a_foreign_task_is_refused() -> None:
    refused: list[BaseException] = []

    @workflow
    async def careless() -> None:
        async def inner() -> None:
            try:
                await work("from a task")
            except Exception as error:
                refused.append(error)
                raise

        task = asyncio.get_running_loop().create_task(inner())
        task.add_done_callback(lambda done: done.exception())
        await task

    simulation = Simulation(careless).begin()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert simulation.run.done
    assert "a task that the workflow does not control" in str(refused[0])


def test_dropping_a_run_runs_no_more_of_its_code() -> None:
    ran: list[str] = []

    @workflow
    async def careful() -> None:
        try:
            await work("one")
        finally:
            await work("clean-up")
            ran.append("after the clean-up")

    simulation = Simulation(careful).begin()
    pending = len(simulation.builder.pending)
    simulation.run.close()
    assert ran == []
    assert len(simulation.builder.pending) == pending


def test_dropping_a_run_leaves_no_branch_of_a_clean_up_unawaited(recwarn: pytest.WarningsRecorder) -> None:
    @workflow
    async def careful() -> None:
        async def branch() -> None:
            await work("clean-up")

        try:
            await work("one")
        finally:
            await gather(branch(), branch())

    Simulation(careful).begin().run.close()
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_cancel_is_replayed_where_it_came() -> None:
    @workflow
    async def cancelled() -> str:
        await work("one")
        try:
            await sleep(3600)
        except asyncio.CancelledError:
            return await work("clean-up")
        return "slept"

    live = Simulation(cancelled).begin()
    live.settle("work")
    live.cancel()
    assert [event.WhichOneof("detail") for event in live.all_events][-2:] == ["call_cancelled", "attempt_started"]
    for length in (len(live.all_events) - 2, len(live.all_events) - 1, len(live.all_events)):
        again = Simulation(cancelled, events=live.all_events[:length]).begin()
        again.settle("work#2")
        assert again.run.value.startswith("work#2")
