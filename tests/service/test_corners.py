"""Corner cases of steps, slots and limits. Each test guards against a bug that a review found."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import (
    PermanentError,
    RetryPolicy,
    StepFailed,
    TransientError,
    attempt,
    gather,
    progress,
    sleep,
    step,
    wait_signal,
    workflow,
)
from mendflow.v1 import failure_pb2, workflow_pb2
from tests.support.servers import serving, until
from tests.support.workflow_states import in_state

if TYPE_CHECKING:
    from pathlib import Path

RAN: list[str] = []
RELEASED = asyncio.Event()
WORLD = {"input": "before"}
WITHOUT_LIMIT = RetryPolicy(max_attempts=None, initial_interval=0.001, maximum_interval=0.001)


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


@step
async def quick(name: str) -> str:
    """Take no time."""
    RAN.append(f"quick {name}")
    return name


@step
async def hold(seconds: float, name: str) -> str:
    """Take this many seconds."""
    RAN.append(f"hold {name}")
    await asyncio.sleep(seconds)
    return name


@step
def on_thread(name: str) -> str:
    """Take no time, on a thread."""
    RAN.append(f"thread {name}")
    return name


@step(retry=RetryPolicy(max_attempts=1))
async def fail() -> None:
    """Fail for good."""
    msg = "no"
    raise TransientError(msg)


@step(retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
async def odd() -> None:
    """Raise a BaseException that is no Exception."""
    raise Odd


@step(retry=WITHOUT_LIMIT)
async def always_fails() -> None:
    """Fail at every attempt."""
    msg = "again"
    raise TransientError(msg)


@step(retry=WITHOUT_LIMIT)
async def fails_once() -> int:
    """Fail at the first attempt."""
    if attempt().number == 1:
        msg = "once"
        raise TransientError(msg)
    return attempt().number


@step
async def waits_for_release() -> None:
    """End when the test releases it."""
    await RELEASED.wait()
    RAN.append("released")


@step(timeout=0.05, retry=RetryPolicy(max_attempts=2, initial_interval=0.001, maximum_interval=0.001))
def overruns(seconds: float) -> str:
    """Overrun its timeout, on a thread."""
    if attempt().number == 1:
        time.sleep(seconds)
    return "second"


@step(retry=RetryPolicy(max_attempts=1, on_exhaustion="pause"))
async def pauses() -> None:
    """Pause the workflow."""
    msg = "help"
    raise TransientError(msg)


async def _two(name: str) -> None:
    await quick(name)
    await hold(20, name)


@workflow
async def sibling_fails() -> str:
    """Have a branch fail in the turn in which another starts its next step."""
    try:
        await gather(_two("x"), fail())
    except Exception:  # noqa: BLE001
        return "caught"
    return "not reached"


@workflow
async def fails_beside_another() -> int:
    """Run a step that is retried at once next to one that ends when the test releases it."""
    number, _ = await gather(fails_once(), waits_for_release())
    return number


@step(retry=RetryPolicy(max_attempts=1))
async def fails_when_two_met(meeting: str) -> None:
    """Fail for good in the same turn of the loop as the other step."""
    await _both(meeting)
    msg = "for good"
    raise PermanentError(msg)


@step(retry=WITHOUT_LIMIT)
async def fails_for_now_when_two_met(meeting: str) -> None:
    """Fail with a retry in the same turn of the loop as the other step."""
    await _both(meeting)
    msg = "for now"
    raise TransientError(msg)


async def _both(meeting: str) -> None:
    """Wait until both have arrived, so that both continue in the same turn, the first arrival first."""
    RAN.append(meeting)
    await asyncio.sleep(0)
    while RAN.count(meeting) < 2:
        await asyncio.sleep(0)


@workflow
async def two_fail_at_once() -> str:
    """Have two branches fail in the same turn, one of them with a retry."""
    try:
        await gather(fails_when_two_met("met"), fails_for_now_when_two_met("met"))
    except StepFailed as error:
        return error.step_key
    return "not reached"


@workflow
async def odd_step() -> None:
    """Call a step that raises a BaseException."""
    await odd()


@workflow
async def cleans_up_badly() -> None:
    """Clean up with a step that pauses the workflow."""
    try:
        await sleep(600)
    finally:
        await pauses()


@workflow
async def half_progress() -> str:
    """Report a fraction."""
    progress(0.5, 1)  # type: ignore[arg-type]
    return await quick("half")


@workflow
async def endless() -> None:
    """Retry without limit."""
    await always_fails()


async def _inner() -> None:
    try:
        await gather(sleep(600), sleep(600))
    finally:
        await quick("in a finally")


@workflow
async def nested() -> None:
    """Wait for a gather in a branch with a finally."""
    await gather(_inner(), sleep(600))


@workflow
async def overrun(seconds: float) -> str:
    """Call a step whose thread outlives its attempt."""
    return await overruns(seconds)


@workflow
async def holds(seconds: float) -> str:
    """Hold a slot."""
    return await hold(seconds, "slot")


@workflow
async def lingers(seconds: float) -> str:
    """Wait for a slot, and sleep when cancelled."""
    try:
        return await hold(seconds, "lingers")
    except asyncio.CancelledError:
        await sleep(600)
        raise


@workflow
async def many_steps(thread: bool) -> None:  # noqa: FBT001
    """Run more steps than a history may contain."""
    for index in range(1000):
        if thread:
            await on_thread(str(index))
        else:
            await quick(str(index))


@workflow
async def depends() -> str:
    """Pass another input after a deploy."""
    await quick(WORLD["input"])
    await wait_signal("go")
    return "done"


MINE = {
    each.name: each
    for each in (
        sibling_fails, odd_step, cleans_up_badly, half_progress, endless, nested, overrun, holds, lingers, many_steps,
        depends, fails_beside_another, two_fail_at_once,
    )
}  # fmt: skip


async def test_a_step_that_starts_as_its_sibling_fails_is_cancelled(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        assert await server.client.run(sibling_fails, timeout=5) == "caught"


async def test_a_step_that_raises_a_base_exception_fails(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        handle = await server.client.start(odd_step, id="odd")
        await in_state(server.client, handle.id, workflow_pb2.WORKFLOW_STATE_FAILED)
        assert server.app.services.attempts.task_slots.free == server.app.settings.attempt_slots


async def test_the_cleanup_deadline_holds_though_a_cleanup_step_pauses(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, cleanup_timeout=0.5) as server:
        handle = await server.client.start(cleans_up_badly, id="bad")
        await in_state(server.client, "bad", workflow_pb2.WORKFLOW_STATE_WAITING)
        await handle.cancel()
        await in_state(server.client, "bad", workflow_pb2.WORKFLOW_STATE_CANCELLED)


async def test_a_progress_that_is_no_whole_number_stops_no_workflow(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        workflow = await _ended(server.client, half_progress)
        assert workflow.state in {workflow_pb2.WORKFLOW_STATE_SUCCEEDED, workflow_pb2.WORKFLOW_STATE_FAILED}


async def _ended(client: Any, what: Any) -> workflow_pb2.Workflow:
    handle = await client.start(what)
    ended: workflow_pb2.Workflow = await handle.get(wait=4)
    return ended


async def test_retries_without_limit_end_at_the_history_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, history_limit=100) as server:
        workflow = await _ended(server.client, endless)
        assert workflow.last_sequence <= 100
        assert workflow.state == workflow_pb2.WORKFLOW_STATE_FAILED


async def test_an_evicted_run_executes_nothing(tmp_path: Path) -> None:
    RAN.clear()
    async with serving(tmp_path, definitions=MINE) as server:
        await server.client.start(nested, id="nested")
        await in_state(server.client, "nested", workflow_pb2.WORKFLOW_STATE_WAITING)
        assert await until(lambda: server.app.engine.evict(at_once=True) or not server.app.engine.workflows_in_memory)
        await asyncio.sleep(0)
        gc.collect()
        assert RAN == []


async def test_waiting_for_a_thread_does_not_spin(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        before = time.process_time()
        assert await server.client.run(overrun, 2.0, timeout=10) == "second"
        assert time.process_time() - before < 1.0


async def test_a_slot_is_not_lost_to_a_cancelled_step(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE, attempt_slots=1) as server:
        client = server.client
        await client.start(holds, 0.5, id="first")
        await client.start(lingers, 0.1, id="second")
        await client.start(holds, 0.1, id="third")
        await client.cancel("second")
        await in_state(client, "third", workflow_pb2.WORKFLOW_STATE_SUCCEEDED)


@pytest.mark.parametrize("thread", [False, True])
async def test_the_history_limit_leaks_no_slot_and_runs_nothing(tmp_path: Path, thread: bool) -> None:  # noqa: FBT001
    RAN.clear()
    async with serving(tmp_path, definitions=MINE, history_limit=100) as server:
        handle = await server.client.start(many_steps, thread)
        workflow = await handle.get(wait=5)
        assert workflow.state == workflow_pb2.WORKFLOW_STATE_FAILED
        await asyncio.sleep(0.1)
        assert server.app.engine.attempts_running == 0
        events = [event async for event in handle.events()]
        assert len(RAN) == sum(event.HasField("attempt_succeeded") for event in events)


async def test_a_resume_of_code_that_still_does_not_fit_pauses_again(tmp_path: Path) -> None:
    WORLD["input"] = "before"
    async with serving(tmp_path, definitions=MINE) as server:
        await server.client.start(depends, id="depends")
        await in_state(server.client, "depends", workflow_pb2.WORKFLOW_STATE_WAITING)
        assert await until(lambda: server.app.engine.evict(at_once=True))
        WORLD["input"] = "after"
        try:
            await server.client.signal("depends", "go")
            await in_state(server.client, "depends", workflow_pb2.WORKFLOW_STATE_PAUSED)
            store: Any = server.app.store
            load = store.load
            loads: list[Any] = []

            async def counted(keys: Any) -> Any:
                loads.append(keys)
                return await load(keys)

            store.load = counted
            await server.client.resume("depends")
            await asyncio.sleep(0.5)
            assert len(loads) < 5
        finally:
            WORLD["input"] = "before"


async def test_nothing_follows_the_final_event(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        engine = server.app.engine
        handle = await server.client.start(holds, 20.0, id="reports")
        deliver = engine.loader.deliver

        def and_report(key: int, message: Any) -> None:
            deliver(key, message)
            for body in server.app.services.attempts.running:  # Simulate a report of the step in the same turn.
                body.progressed(1, 2, "late")

        engine.loader.deliver = and_report  # type: ignore[method-assign]
        await handle.terminate()
        kinds = [event.WhichOneof("detail") async for event in handle.events()]
        assert kinds[-1] == "workflow_terminated", kinds


async def test_a_retry_that_is_due_while_its_failure_is_being_committed_is_not_forgotten(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        store: Any = server.app.store
        commit = store.commit

        async def slow(batch: Any) -> Any:
            if any(change.guard for change in batch.changes) and not RELEASED.is_set():
                # This is the first attempt's failure. The other step ends meanwhile, when the retry is already due.
                await asyncio.sleep(0.005)
                RELEASED.set()
                assert await until(lambda: "released" in RAN)
                await asyncio.sleep(0)
            return await commit(batch)

        store.commit = slow
        RAN.clear()
        handle = await server.client.start(fails_beside_another, id="beside")
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        assert await handle.result() == 2


async def test_a_step_that_is_withdrawn_in_the_turn_in_which_it_fails_is_closed_for_good(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        RAN.clear()
        handle = await server.client.start(two_fail_at_once, id="meeting")
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        assert await handle.result() == "gather[0]/fails_when_two_met"
        failures = {
            event.attempt_failed.step_key: event.attempt_failed
            async for event in handle.events()
            if event.HasField("attempt_failed")
        }
        withdrawn = failures["gather[1]/fails_for_now_when_two_met"]
        assert withdrawn.failure.kind == failure_pb2.FAILURE_KIND_TRANSIENT
        assert withdrawn.decision.action == failure_pb2.RETRY_ACTION_CANCEL_STEP
