"""Corner cases of changed code on a real server. Each test guards against a bug that a review found."""

from __future__ import annotations

import asyncio
import functools
import gc
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import (
    PermanentError,
    RetryPolicy,
    StepFailed,
    ThrottledError,
    TransientError,
    attempt,
    gather,
    now,
    sleep,
    step,
    wait_signal,
    workflow,
)
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.runtime.clock import SystemClock
from tests.support.deploying import PRELUDE, deployment, events_of, module_of, state_name, wait_event
from tests.support.servers import serving, until
from tests.support.workflow_states import at_rest

if TYPE_CHECKING:
    from pathlib import Path

    from mendflow import Client

RAN: list[str] = []
GATES: dict[str, asyncio.Event] = {}
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(autouse=True)
def fresh() -> None:
    RAN.clear()
    GATES.clear()


def gate(name: str) -> asyncio.Event:
    return GATES.setdefault(name, asyncio.Event())


@step
async def effect(name: str) -> str:
    """Record that the step ran."""
    RAN.append(name)
    return name


@step(retry=ONCE)
async def fails_at_gate() -> None:
    """Fail for good when the test says so."""
    await gate("fail").wait()
    raise PermanentError("no")


@step
async def ends_at_gate() -> str:
    """End when the test says so."""
    await gate("end").wait()
    RAN.append("ends_at_gate")
    return "ended"


@step(retry=RetryPolicy(max_attempts=1, on_exhaustion="pause"))
async def exhausts() -> None:
    """Pause the workflow until the operator has done something."""
    RAN.append(f"exhausts {attempt().number}")
    await gate("exhaust").wait()
    if not gate("operator").is_set():
        raise TransientError("down")


@step
async def backs_off() -> None:
    """Fail, with a retry after 0.2 s."""
    raise ThrottledError("later", retry_after=0.2)


def kinds(events: list[Any]) -> list[str]:
    return [event.WhichOneof("detail") for event in events]


async def in_state(client: Client, workflow_id: str, name: str) -> workflow_pb2.Workflow:
    """Return the workflow once it is in a state."""
    async with asyncio.timeout(30):
        while state_name(found := await client.get(workflow_id)) != name:
            await asyncio.sleep(0.01)
    return found


# Nothing is lost, and no other workflow suffers.


async def test_a_signal_is_not_taken_by_a_wait_that_an_earlier_outcome_has_ended(tmp_path: Path) -> None:
    @workflow
    async def order() -> Any:
        async def inner() -> Any:
            try:
                return await gather(wait_signal("s"), fails_at_gate())
            except StepFailed:
                return await wait_signal("s")

        return await gather(inner(), exhausts())

    gate("exhaust").set()
    async with serving(tmp_path, definitions={"order": order}) as server:
        handle = await server.client.start(order, id="o")
        await in_state(server.client, "o", "PAUSED")
        paused = (await handle.get()).last_sequence
        gate("fail").set()
        await wait_event(server.client, "o", "attempt_failed", after=paused)
        await handle.signal("s", "hello")
        await wait_event(server.client, "o", "signal_received")
        gate("operator").set()
        await handle.resume()
        assert await handle.result() == ["hello", None]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_a_coroutine_that_the_collector_frees_is_charged_to_no_other_workflow(tmp_path: Path) -> None:
    async def helper() -> None: ...

    @workflow
    async def guilty() -> None:
        try:
            _held = helper()
            raise ValueError("x")  # noqa: TRY301 - the frame must hold it
        except ValueError as error:
            _cycle = error  # The common reference cycle of a frame and its traceback.
            raise

    @workflow
    async def innocent() -> int:
        await effect("fine")
        gc.collect()
        return 1

    async with serving(tmp_path, definitions={"guilty": guilty, "innocent": innocent}) as server:
        for index in range(3):
            await server.client.start(guilty, id=f"g{index}")
            await server.client.get(f"g{index}", wait=5)
            assert await server.client.run(innocent) == 1


async def test_a_quarantined_workflow_is_not_resumed_by_the_start_that_quarantines_it(tmp_path: Path) -> None:
    killer = """
@step(timeout=None)
async def killer():
    effect("killer")
    while not os.path.exists("die"):
        await asyncio.sleep(0.005)
    os._exit(9)
"""
    old = "async def right(): await b(); await wait_signal('s'); await c()\nawait gather(killer(), right())"
    new = "async def right(): await wait_signal('s'); await c()\nawait gather(killer(), right())"
    deployed = deployment(tmp_path)
    deployed.server.environment["MENDFLOW_CRASH_BUDGET"] = "1"
    deployed.server.environment["MENDFLOW_DRAIN_TIMEOUT"] = "1"  # The killer does not end by itself.

    def source(body: str) -> str:
        return PRELUDE + killer + module_of({"order": body}).removeprefix(PRELUDE)

    async def start(client: Client) -> None:
        await client.start("order", id="o")
        await wait_event(client, "o", "signal_awaited")

    async def pause(client: Client) -> None:
        await client.handle("o").signal("s")
        await wait_event(client, "o", "workflow_paused")

    async def look(client: Client) -> tuple[str, list[str]]:
        found = await in_state(client, "o", "QUARANTINED")
        return state_name(found), kinds(await events_of(client, "o"))

    try:
        await asyncio.to_thread(deployed.deploy, source(old))
        await asyncio.to_thread(deployed.run, start)
        deployed.server.terminate()
        await asyncio.to_thread(deployed.deploy, source(new))
        await asyncio.to_thread(deployed.run, pause)
        (tmp_path / "die").touch()
        assert deployed.server.wait_died() == 9
        (tmp_path / "die").unlink()
        await asyncio.to_thread(deployed.deploy, source(old))
        _, found = await asyncio.to_thread(deployed.run, look)
        assert "workflow_resumed" not in found
    finally:
        deployed.server.kill()


async def test_a_cancel_whose_clean_up_is_new_pauses_and_a_rollback_cleans_up(tmp_path: Path) -> None:
    def order_of(*, old: bool) -> Any:
        @workflow
        async def order() -> None:
            await effect("charge")
            if old:
                await effect.with_options(key="audit")("audit")
            try:
                await wait_signal("s")
            except asyncio.CancelledError:
                await effect.with_options(key="refund")("refund")
                raise

        return order

    async with serving(tmp_path, definitions={"order": order_of(old=True)}) as server:
        await server.client.start("order", id="o")
        await at_rest(server.client, "o")
    async with serving(tmp_path, definitions={"order": order_of(old=False)}) as server:
        await server.client.cancel("o")
        found = await in_state(server.client, "o", "PAUSED")
        assert "called step refund" in found.explanation
        assert "recorded in its history: step audit (effect) (event 4)" in found.explanation
        assert "alert_raised" in kinds(await events_of(server.client, "o"))
        assert RAN == ["charge", "audit"]
    async with serving(tmp_path, definitions={"order": order_of(old=True)}) as server:
        assert state_name(await server.client.get("o", wait=10)) == "CANCELLED"
        assert RAN == ["charge", "audit", "refund"]


async def test_a_cancelled_workflow_that_cannot_clean_up_ends_at_its_deadline_and_says_what_was_cut(
    tmp_path: Path,
) -> None:
    def order_of(*, old: bool) -> Any:
        @workflow
        async def order() -> None:
            try:
                await wait_signal("x")
            finally:
                await gather(sleep(0.4), *([sleep(0.4)] if old else []))
                await effect("old" if old else "new")

        return order

    async with serving(tmp_path, definitions={"order": order_of(old=True)}, cleanup_timeout=2) as server:
        await server.client.start("order", id="o")
        await at_rest(server.client, "o")
        await server.client.cancel("o")
    async with serving(tmp_path, definitions={"order": order_of(old=False)}) as server:
        assert state_name(await server.client.get("o", wait=10)) == "CANCELLED"
        final = (await events_of(server.client, "o"))[-1].workflow_cancelled
        assert final.reason == event_pb2.STATE_REASON_CLEANUP_DEADLINE
        assert "gather[1]/sleep" in final.cut_keys
        assert RAN == []


# What a pause keeps separate.


async def test_a_step_that_exhausts_while_the_code_does_not_fit_waits_for_an_operator(tmp_path: Path) -> None:
    def order_of(*, old: bool) -> Any:
        @workflow
        async def order() -> None:
            async def right() -> None:
                if old:
                    await effect("b")
                await wait_signal("s")
                await effect.with_options(key="c")("c")

            await gather(exhausts(), right())

        return order

    async with serving(tmp_path, definitions={"order": order_of(old=True)}) as server:
        await server.client.start("order", id="o")
        await wait_event(server.client, "o", "signal_awaited")
    async with serving(tmp_path, definitions={"order": order_of(old=False)}) as server:
        await server.client.signal("o", "s")
        await in_state(server.client, "o", "PAUSED")
        gate("exhaust").set()
        async with asyncio.timeout(30):
            while (await server.client.get("o")).reason != event_pb2.STATE_REASON_RETRIES_EXHAUSTED:
                await asyncio.sleep(0.01)
    before = list(RAN)
    async with serving(tmp_path, definitions={"order": order_of(old=True)}) as server:
        assert state_name(await server.client.get("o")) == "PAUSED"
        assert before == RAN
        gate("operator").set()
        await server.client.resume("o")
        assert state_name(await server.client.get("o", wait=10)) == "SUCCEEDED"


async def test_a_removed_step_that_backs_off_keeps_nothing_in_memory(tmp_path: Path) -> None:
    def order_of(*, old: bool) -> Any:
        @workflow
        async def order() -> None:
            async def left() -> None:
                if old:
                    await backs_off()

            await gather(left(), wait_signal("s"))

        return order

    async with serving(tmp_path, definitions={"order": order_of(old=True)}) as server:
        await server.client.start("order", id="o")
        await at_rest(server.client, "o")
    async with serving(tmp_path, definitions={"order": order_of(old=False)}, evict_after=0.05) as server:
        await server.client.signal("o", "nudge")
        found = await at_rest(server.client, "o")
        assert await until(lambda: not server.app.engine.workflows_in_memory)
        found = await server.client.get("o")
        assert (found.reason, found.HasField("wake_time")) == (event_pb2.STATE_REASON_SIGNAL, False)


async def test_restarts_with_code_that_looks_at_the_time_add_nothing_to_the_history(tmp_path: Path) -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    went: list[str] = []

    def order_of(*, old: bool) -> Any:
        @workflow
        async def order() -> None:
            await effect("a")
            if old:
                await effect.with_options(key="b")("b")
            else:
                went.append("early" if now() < noon + timedelta(hours=1) else "late")
                await effect.with_options(key=went[-1])(went[-1])
            await wait_signal("s")

        return order

    def serving_at(hours: float, *, old: bool = False) -> Any:
        clock = SystemClock(wall=(noon + timedelta(hours=hours)).timestamp)
        return serving(tmp_path, definitions={"order": order_of(old=old)}, clock=clock)

    async with serving_at(0, old=True) as server:
        await server.client.start("order", id="o")
        await at_rest(server.client, "o")

    def has_driven(lives: int) -> bool:
        return len(went) == lives

    lengths: list[int] = []
    for life, hours in enumerate((0.5, 0.6, 1.5, 2.5), start=1):
        async with serving_at(hours) as server:
            if not lengths:
                await server.client.signal("o", "nudge")
            assert await until(functools.partial(has_driven, life))
            lengths.append((await in_state(server.client, "o", "PAUSED")).last_sequence)
    assert went == ["early", "early", "late", "late"]
    assert len(set(lengths)) == 1


async def test_a_paused_workflow_resumes_by_itself_when_a_result_makes_the_code_fit(tmp_path: Path) -> None:
    def order_of(*, marked: bool) -> Any:
        @workflow
        async def order() -> None:
            async def left() -> None:
                if marked:
                    await ends_at_gate.with_options(inserted=True)()
                await effect.with_options(key="b")("b")

            async def right() -> None:
                await wait_signal("s")
                await effect.with_options(key="c")("c")

            await gather(left(), right())

        return order

    async with serving(tmp_path, definitions={"order": order_of(marked=False)}) as server:
        await server.client.start("order", id="o")
        await at_rest(server.client, "o")
    async with serving(tmp_path, definitions={"order": order_of(marked=True)}) as server:
        await server.client.signal("o", "s")
        await in_state(server.client, "o", "PAUSED")
        gate("end").set()
        assert state_name(await server.client.get("o", wait=10)) == "SUCCEEDED"
    assert RAN == ["b", "ends_at_gate", "c"]
