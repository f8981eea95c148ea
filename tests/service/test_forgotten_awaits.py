"""Tasks and coroutines that workflow code creates and never awaits, on a real server."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import step, workflow
from mendflow.errors import WorkflowFailed
from tests.support.servers import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.servers import Server

RAN: list[str] = []


@step
async def ship(item: str) -> str:
    """Ship the order."""
    RAN.append(item)
    return item


@step
async def makes_a_task(item: str) -> str:
    """Create a task, which a step may do."""
    return await asyncio.create_task(ship.function(item))


async def helper(item: str) -> str:
    """Ship the order, as workflow code does."""
    return await ship(item)


#: What the code creates and never awaits.
MADE: dict[str, Any] = {
    "call": lambda: ship("lost"),
    "coroutine": lambda: helper("lost"),
    "create_task": lambda: asyncio.create_task(helper("lost")),
    "loop.create_task": lambda: asyncio.get_running_loop().create_task(helper("lost")),
    "ensure_future": lambda: asyncio.ensure_future(ship("lost")),
    "asyncio.gather": lambda: asyncio.gather(helper("lost")),
    "task of a step": lambda: asyncio.create_task(ship("lost")),  # type: ignore[arg-type]
}


@workflow
async def forgets(how: str) -> str:
    """Create something and never await it, in one of many ways."""
    await ship("before")
    if how == "coroutine kept":
        _kept = helper("lost")
    elif how == "TaskGroup":
        async with asyncio.TaskGroup() as group:
            group.create_task(helper("lost"))
    elif how:
        MADE[how]()
    await ship("after")
    return "succeeded"


@workflow
async def remembers() -> str:
    """Await everything, in a step that creates a task."""
    return await makes_a_task("task")


@pytest.fixture
async def mine(tmp_path: Path) -> AsyncIterator[Server]:
    """Run a server with these workflows."""
    async with serving(tmp_path, definitions={each.name: each for each in (forgets, remembers)}) as server:
        yield server


WAYS = {
    "call": "step ship()",
    "coroutine": "coroutine helper()",
    "coroutine kept": "coroutine helper()",
    "create_task": "helper() was wrapped in a task",
    "loop.create_task": "helper() was wrapped in a task",
    "ensure_future": "step ship() was wrapped in a task",
    "task of a step": "step ship() was wrapped in a task",
    "TaskGroup": "asyncio.TaskGroup cannot be replayed",
    "asyncio.gather": "helper() was wrapped in a task",
}


@pytest.mark.parametrize("how", WAYS)
async def test_a_workflow_that_forgets_an_await_fails_and_names_it(mine: Server, how: str) -> None:
    for _ in range(2):  # Python warns only of the first one at each line.
        handle = await mine.client.start(forgets, how)
        with pytest.raises(WorkflowFailed) as failed:
            await handle.result()
        assert WAYS[how] in failed.value.failure.message
    assert "lost" not in RAN


async def test_a_step_may_make_tasks_and_other_coroutines_warn_as_ever(mine: Server) -> None:
    assert await mine.client.run(remembers) == "task"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        helper("outside")  # type: ignore[unused-coroutine]
    assert ["never awaited" in str(warning.message) for warning in warned] == [True]
    assert await mine.client.run(forgets, "") == "succeeded"


async def test_a_closed_server_leaves_the_loop_and_the_warnings_as_they_were(tmp_path: Path) -> None:
    before = (
        asyncio.get_running_loop().get_task_factory(),
        warnings.showwarning,
        list(warnings.filters),
        gc.callbacks[:],
    )
    async with serving(tmp_path, definitions={forgets.name: forgets}):
        assert asyncio.get_running_loop().get_task_factory() is not before[0]
    after = (
        asyncio.get_running_loop().get_task_factory(),
        warnings.showwarning,
        list(warnings.filters),
        gc.callbacks[:],
    )
    assert after == before


async def test_servers_on_one_loop_may_end_in_any_order(tmp_path: Path) -> None:
    before = (asyncio.get_running_loop().get_task_factory(), warnings._warn_unawaited_coroutine)  # type: ignore[attr-defined]  # noqa: SLF001
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = serving(tmp_path / "first", definitions={forgets.name: forgets})
    second = serving(tmp_path / "second", definitions={forgets.name: forgets})
    await first.__aenter__()
    running = await second.__aenter__()
    await first.__aexit__(None, None, None)
    for how in ("coroutine", "create_task"):
        with pytest.raises(WorkflowFailed, match=r"helper\(\)"):
            await running.client.run(forgets, how)
    await second.__aexit__(None, None, None)
    after = (asyncio.get_running_loop().get_task_factory(), warnings._warn_unawaited_coroutine)  # type: ignore[attr-defined]  # noqa: SLF001
    assert after == before
