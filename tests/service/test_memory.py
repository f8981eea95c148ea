"""A workflow's memory is free as soon as it has ended, without the garbage collector."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from mendflow import attempt, gather, progress, step, workflow
from mendflow_server.execution.execution import Execution
from mendflow_server.replay.workflow_runner import WorkflowRunner
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from pathlib import Path


@step
async def plain(number: int) -> int:
    """Return a number."""
    return number


@step
async def reports(number: int) -> int:
    """Report a heartbeat and progress."""
    attempt().heartbeat({"at": number})
    attempt().report_progress(1, 2, "half")
    return number


@workflow
async def plain_steps() -> list[int]:
    """Run steps beside one another."""
    return list(await gather(plain(1), plain(2)))


@workflow
async def reporting_steps() -> int:
    """Report from a step and from the workflow."""
    progress(1, 2, "begun")
    return await reports(1)


@pytest.mark.parametrize("name", ["plain_steps", "reporting_steps"])
async def test_memory_of_an_ended_workflow_is_free_without_the_collector(tmp_path: Path, name: str) -> None:
    definitions = {"plain_steps": plain_steps, "reporting_steps": reporting_steps}
    async with serving(tmp_path, definitions=definitions) as server:
        gc.collect()
        gc.disable()
        try:
            await server.client.run(name, id="subject")
            assert await until(lambda: not server.app.engine.workflows_in_memory)
            left = [each for each in gc.get_objects() if isinstance(each, Execution | WorkflowRunner)]
            assert len(left) == 0
        finally:
            gc.enable()
