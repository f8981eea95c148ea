"""A workflow type that pauses on an error: a bug waits for fixed code, and nothing that was done is done again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import pytest

from mendflow import PermanentError, StepFailed, Workflow, gather, sleep, step, uuid4, workflow
from mendflow.errors import DefinitionError
from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mendflow import WorkflowHandle
    from tests.support.servers import Server

RAN: list[str] = []


@step
async def charge(amount: int) -> int:
    """Charge once."""
    RAN.append(f"charge {amount}")
    return amount


@step
async def refund(amount: int) -> int:
    """Refund once."""
    RAN.append(f"refund {amount}")
    return amount


def order(fixed: str = "", *, on_error: Literal["fail", "pause"] = "pause") -> dict[str, Workflow[Any, Any]]:
    """Return the type with its bug, or fixed in some way."""

    @workflow(name="order", on_error=on_error)
    async def order(amount: int) -> int:
        charged = await charge(amount)
        key = uuid4()
        if fixed == "by a step":
            return await refund(charged)
        if fixed == "by a value":
            return charged
        raise KeyError(f"lamp {key}")

    return {"order": order}


@workflow(on_error="pause")
async def wrong_result() -> int:
    """Return what its type does not allow."""
    return await charge(1) and "text"  # type: ignore[return-value]


@workflow(on_error="pause")
async def bad_branch() -> None:
    """Fail in a branch while another one waits."""

    async def fails() -> None:
        await charge(1)
        raise ValueError("branch")

    await gather(fails(), sleep(hours=1))


GO = asyncio.Event()


@step
async def slow(number: int) -> int:
    """Wait for the test."""
    RAN.append("slow began")
    await GO.wait()
    RAN.append("slow ended")
    return number


@step
async def refuses() -> None:
    """Fail for good."""
    raise PermanentError("no")


def branches(*, fixed: bool = False) -> Workflow[Any, Any]:
    """Return a type whose second branch has a bug after its step, or is fixed."""

    @workflow(name="branches", on_error="pause")
    async def branches() -> list[int]:
        async def second() -> int:
            charged = await charge(1)
            if not fixed:
                raise ValueError("bug")
            return charged

        return [*await gather(slow(7), second())]

    return branches


@workflow(on_error="pause")
async def handles() -> str:
    """Handle the failure of a branch's step."""
    try:
        await gather(refuses(), sleep(hours=1))
    except StepFailed:
        return "handled"
    return "not handled"


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()


async def paused(server: Server, workflow_id: str) -> workflow_pb2.Workflow:
    """Wait until the workflow is paused, and return it."""
    while True:  # The test's timeout ends it.
        found = await server.client.get(workflow_id)
        if found.state == workflow_pb2.WORKFLOW_STATE_PAUSED:
            return found
        await asyncio.sleep(0.005)


async def kinds(handle: WorkflowHandle[Any]) -> list[str]:
    """Return the kinds of the events of a workflow that has ended."""
    return [event.WhichOneof("detail") or "" async for event in handle.events()]


@pytest.mark.parametrize("fixed", ["by a step", "by a value"])
async def test_an_error_pauses_the_workflow_until_fixed_code_is_served(tmp_path: Path, fixed: str) -> None:
    async with serving(tmp_path, definitions=order()) as server:
        await server.client.start("order", 7, id="o")
        found = await paused(server, "o")
        assert found.reason == event_pb2.STATE_REASON_WORKFLOW_ERROR
        assert "KeyError" in found.explanation
        assert "lamp" in found.explanation
    async with serving(tmp_path, definitions=order()) as server:
        assert (await server.client.get("o")).state == workflow_pb2.WORKFLOW_STATE_PAUSED, "the code is not fixed"
    async with serving(tmp_path, definitions=order(fixed)) as server:
        handle = server.client.handle("o", result_type=int)
        assert await handle.result(timeout=10) == 7
        assert ["charge 7"] + (["refund 7"] if fixed == "by a step" else []) == RAN
        events = [event async for event in handle.events()]
    [pause] = [event.workflow_paused for event in events if event.HasField("workflow_paused")]
    assert pause.failure.type == "builtins.KeyError"
    assert "in order" in pause.failure.traceback
    assert [event.alert_raised.name for event in events if event.HasField("alert_raised")] == [
        "workflow_paused_workflow_error"
    ]
    # The value that the failed try drew is not recorded; the fixed code draws its own.
    assert len([event for event in events if event.HasField("value_recorded")]) == 1


async def test_a_resume_under_the_same_code_pauses_again(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=order()) as server:
        await server.client.start("order", 7, id="o")
        before = await paused(server, "o")
        await server.client.resume("o")
        assert await until(lambda: len(RAN) == 1)
        found = await paused(server, "o")
        while found.last_sequence == before.last_sequence:
            found = await paused(server, "o")
        assert found.reason == event_pb2.STATE_REASON_WORKFLOW_ERROR
        assert RAN == ["charge 7"]


async def test_a_cancel_ends_it_without_clean_up_and_a_terminate_too(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=order()) as server:
        for name in ("cancelled", "terminated"):
            await server.client.start("order", 7, id=name)
            await paused(server, name)
        await server.client.cancel("cancelled")
        await server.client.terminate("terminated")
        for name, state in (
            ("cancelled", workflow_pb2.WORKFLOW_STATE_CANCELLED),
            ("terminated", workflow_pb2.WORKFLOW_STATE_TERMINATED),
        ):
            assert (await server.client.get(name, wait=10)).state == state
        assert (await kinds(server.client.handle("cancelled"))).count("workflow_paused") == 1


async def test_a_result_that_does_not_match_the_type_pauses_too(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions={"wrong_result": wrong_result}) as server:
        await server.client.start("wrong_result", id="w")
        assert (await paused(server, "w")).reason == event_pb2.STATE_REASON_WORKFLOW_ERROR


async def test_a_failed_branch_cancels_no_other_branch_on_record(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions={"bad_branch": bad_branch}) as server:
        handle = await server.client.start("bad_branch", id="b")
        await paused(server, "b")
        await server.client.terminate("b")
        assert "call_cancelled" not in await kinds(handle)


async def test_an_error_in_a_branch_leaves_the_steps_of_other_branches_running(tmp_path: Path) -> None:
    GO.clear()
    async with serving(tmp_path, definitions={"branches": branches()}) as server:
        await server.client.start("branches", id="b")
        assert (await paused(server, "b")).reason == event_pb2.STATE_REASON_WORKFLOW_ERROR
        GO.set()
        assert await until(lambda: "slow ended" in RAN)
    async with serving(tmp_path, definitions={"branches": branches(fixed=True)}) as server:
        handle = server.client.handle("b", result_type=list[int])
        assert await handle.result(timeout=10) == [7, 1]
        assert RAN == ["slow began", "charge 1", "slow ended"]
        events = [event async for event in handle.events()]
    assert not [event for event in events if event.HasField("attempt_failed")]


async def test_a_failed_step_in_a_branch_is_handled_by_the_code_as_ever(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions={"handles": handles}) as server:
        assert await server.client.run("handles", id="h") == "handled"


async def test_without_the_option_an_error_fails_the_workflow(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=order(on_error="fail")) as server:
        await server.client.start("order", 7, id="o")
        assert (await server.client.get("o", wait=10)).state == workflow_pb2.WORKFLOW_STATE_FAILED


def test_another_value_of_the_option_is_refused() -> None:
    with pytest.raises(DefinitionError, match='on_error must be "fail" or "pause", not \'stop\''):
        order(on_error="stop")  # type: ignore[arg-type]
