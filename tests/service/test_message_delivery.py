"""Signals and cancels reach their workflow across evictions, failed reads, unknown commits and a recovery."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import (
    Client,
    attempt,
    gather,
    step,
    wait_signal,
    workflow,
)
from mendflow.v1 import workflow_pb2
from mendflow_server.app import App
from mendflow_server.execution.execution import Execution
from mendflow_server.healing.crash_guard import CrashGuard
from mendflow_server.store.errors import CommitUnknown, StoreUnavailable
from tests.support.servers import serving, settings_for, until
from tests.support.workflow_states import in_state

if TYPE_CHECKING:
    from pathlib import Path


@workflow
async def waits() -> str:
    """Wait for a signal."""
    return str(await wait_signal("go"))


@step
async def interrupted_once() -> None:
    """Run until the process ends, the first time."""
    if attempt().number == 1:
        await asyncio.sleep(60)


@workflow
async def works_and_waits() -> Any:
    """Have an attempt in progress and wait for a signal."""
    return (await gather(interrupted_once(), wait_signal("go")))[1]


MINE = {each.name: each for each in (waits, works_and_waits)}


def _lose_the_outcome_of_one_commit(store: Any) -> list[bool]:
    """Make the first commit that carries a message succeed with an unknown outcome; the list then has an entry."""
    commit = store.commit
    failed: list[bool] = []

    async def unknown_once(batch: Any) -> Any:
        result = await commit(batch)
        if batch.messages and not failed:
            failed.append(True)
            raise CommitUnknown
        return result

    store.commit = unknown_once
    return failed


async def test_a_message_survives_an_eviction_in_the_same_turn(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        engine = server.app.engine
        handle = await server.client.start(waits, id="evicted")
        await in_state(server.client, "evicted", workflow_pb2.WORKFLOW_STATE_WAITING)
        deliver = engine.loader.deliver

        def and_evict(key: int, message: Any) -> None:
            deliver(key, message)
            engine.evict(at_once=True)

        engine.loader.deliver = and_evict  # type: ignore[method-assign]
        await handle.signal("go", "now")
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED


async def test_a_message_survives_a_read_that_fails_once(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        handle = await server.client.start(waits, id="read-fails")
        await in_state(server.client, "read-fails", workflow_pb2.WORKFLOW_STATE_WAITING)
        assert await until(lambda: server.app.engine.evict(at_once=True))
        store: Any = server.app.store
        load = store.load
        failed: list[bool] = []

        async def fail_once(keys: Any) -> Any:
            if not failed:
                failed.append(True)
                raise StoreUnavailable
            return await load(keys)

        store.load = fail_once
        await handle.signal("go", "now")
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        assert failed


async def test_a_signal_whose_commit_was_unknown_is_delivered(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        handle = await server.client.start(waits, id="unknown")
        await in_state(server.client, "unknown", workflow_pb2.WORKFLOW_STATE_WAITING)
        failed = _lose_the_outcome_of_one_commit(server.app.store)
        await handle.signal("go", "now")
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        assert failed


async def test_a_cancel_whose_commit_was_unknown_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        handle = await server.client.start(waits, id="unknown")
        await in_state(server.client, "unknown", workflow_pb2.WORKFLOW_STATE_WAITING)
        failed = _lose_the_outcome_of_one_commit(server.app.store)
        await handle.cancel()
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_CANCELLED
        assert failed


async def test_an_internal_error_strands_no_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        handle = await server.client.start(waits, id="fault")
        await in_state(server.client, "fault", workflow_pb2.WORKFLOW_STATE_WAITING)
        deliver = Execution.deliver
        failed: list[bool] = []

        def fault(execution: Execution, message: Any) -> None:
            if not failed:
                failed.append(True)
                raise RuntimeError
            deliver(execution, message)

        monkeypatch.setattr(Execution, "deliver", fault)
        await handle.signal("go", "x")
        assert (await handle.get(wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
        assert failed


async def test_a_signal_that_arrives_while_a_recovery_reads_is_taken(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=MINE) as server:
        await server.client.start(works_and_waits, id="called")
    app = App(settings_for(tmp_path), MINE)
    judged, read, sent = CrashGuard.judge, asyncio.Event(), asyncio.Event()

    async def judge(self: CrashGuard, *what: Any, **more: Any) -> int:
        # The recovery has read the workflow and its inbox, but has not loaded them yet.
        read.set()
        await sent.wait()
        return await judged(self, *what, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CrashGuard, "judge", judge)
        async with app, Client(f"127.0.0.1:{app.grpc_port}") as client:
            await read.wait()
            await client.signal("called", "go", 1)
            sent.set()
            assert (await client.get("called", wait=3)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
