"""Branches that fail, are retried and end at the same time: the server forgets none of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import RetryPolicy, StepFailed, TransientError, attempt, gather, step, workflow
from mendflow.v1 import failure_pb2
from tests.support.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE = RetryPolicy(max_attempts=3, initial_interval=0.001, maximum_interval=0.001)


@step(retry=AT_ONCE)
async def fails_once() -> str:
    """Succeed at the second attempt, which follows at once."""
    if attempt().number == 1:
        raise TransientError("once")
    return "second"


@step
async def hold(seconds: float) -> str:
    """Take this many seconds."""
    await asyncio.sleep(seconds)
    return "held"


@step(retry=RetryPolicy(max_attempts=1))
async def fails() -> None:
    """Fail for good."""
    raise TransientError("for good")


@step(retry=AT_ONCE)
async def would_retry() -> None:
    """Fail with an error that is retried."""
    raise TransientError("again")


@step(retry=RetryPolicy(max_attempts=1, on_exhaustion="pause"))
async def would_pause() -> None:
    """Fail, and pause for an operator."""
    raise TransientError("help")


@workflow
async def retries_beside() -> list[str]:
    """A step that is retried at once while another one ends."""
    return list(await gather(fails_once(), hold(0.02)))


@workflow
async def both_fail(pause: bool) -> str:  # noqa: FBT001
    """Two branches fail in one turn. Alone, the second would retry or pause."""
    try:
        await gather(fails(), would_pause() if pause else would_retry())
    except StepFailed as error:
        return error.step_key
    return "not reached"


MINE = {each.name: each for each in (retries_beside, both_fail)}


async def test_a_retry_that_falls_due_while_its_failure_is_written_is_not_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        commit = server.app.store.commit

        async def slow(batch: Any) -> Any:
            await asyncio.sleep(0.05)
            return await commit(batch)

        server.app.store.commit = slow  # type: ignore[method-assign]
        assert await server.client.run(retries_beside, timeout=10) == ["second", "held"]


@pytest.mark.parametrize(("pause", "message"), [(False, "again"), (True, "help")])
async def test_a_step_that_fails_together_with_its_sibling_is_cancelled_and_not_retried(
    tmp_path: Path,
    pause: bool,  # noqa: FBT001
    message: str,
) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        handle = await server.client.start(both_fail, pause, id="both")
        assert await handle.result(timeout=10) == "gather[0]/fails"
        failed = [event.attempt_failed async for event in handle.events() if event.HasField("attempt_failed")]
        assert [each.failure.message for each in failed] == ["for good", message]
        assert failed[1].decision.action == failure_pb2.RETRY_ACTION_CANCEL_STEP
