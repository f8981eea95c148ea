"""Retention: finished workflows are deleted after their time, by an operator, or not while they are held."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client, step, wait_signal, workflow
from mendflow.errors import DefinitionError, InvalidRequest, WorkflowNotFound, WrongState
from mendflow.testing.engine import settings_in
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.operator_service_pb2 import DeleteWorkflowRequest
from mendflow_server.app import Parts
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.settings import load_settings
from mendflow_server.store.factory import open_store
from mendflow_server.supervisor.purger import Purger
from tests.support.build import Around
from tests.support.servers import Server, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DAY = 86_400.0


@workflow
async def plain(value: str) -> str:
    return value


@workflow(retention=timedelta(days=2))
async def brief(value: str) -> str:
    return value


@workflow(retention=None)
async def kept(value: str) -> str:
    return value


@step
async def big(size: int) -> str:
    return "x" * size


@workflow
async def long(steps: int) -> int:
    for _ in range(steps):
        await big(2_000)
    return steps


@workflow
async def waits(value: str) -> str:
    await wait_signal("go")
    return value


DEFINITIONS = {each.name: each for each in (plain, brief, kept, long, waits)}


class Ahead(SystemClock):
    """The real clock, some seconds ahead: the test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class AtRest(Purger):
    """A purger that runs only when the test calls `step`."""

    async def run(self) -> None:
        await asyncio.Event().wait()


def parts(clock: Ahead) -> Parts:
    return Parts(clock=lambda: clock, purger=AtRest)


@dataclasses.dataclass
class Aged:
    """A server whose clock the test moves."""

    server: Server
    clock: Ahead

    async def purge(self) -> None:
        while await self.server.app.purger.step():
            pass

    async def ids(self) -> list[str]:
        return sorted([each.workflow_id async for each in self.server.client.list()])


@pytest.fixture
async def aged(tmp_path: Path) -> AsyncIterator[Aged]:
    clock = Ahead()
    async with serving(tmp_path, definitions=DEFINITIONS, parts=parts(clock)) as server:
        yield Aged(server, clock)


async def test_workflows_are_deleted_after_the_retention_of_their_type(aged: Aged) -> None:
    client = aged.server.client
    for definition in (plain, brief, kept):
        await client.run(definition, "x", id=definition.name)
    await client.start(waits, "x", id="waits")
    await aged.purge()
    assert await aged.ids() == ["brief", "kept", "plain", "waits"]
    aged.clock.ahead = 2 * DAY + 60
    await aged.purge()
    assert await aged.ids() == ["kept", "plain", "waits"]
    aged.clock.ahead = 30 * DAY - 60
    await aged.purge()
    assert await aged.ids() == ["kept", "plain", "waits"]
    aged.clock.ahead = 30 * DAY + 60
    await aged.purge()
    assert await aged.ids() == ["kept", "waits"], "the time counts from the end"
    await client.signal("waits", "go")
    assert await client.handle("waits").result() == "x"
    await aged.purge()
    assert await aged.ids() == ["kept", "waits"]


async def test_a_type_that_is_not_served_has_the_retention_of_the_setting(tmp_path: Path) -> None:
    clock = Ahead()
    async with serving(tmp_path, definitions=DEFINITIONS, parts=parts(clock)) as server:
        await server.client.run(kept, "x", id="kept")
    clock.ahead = 10.0
    for retention, left in ((11, ["kept"]), ("forever", ["kept"]), (5, [])):
        settings: dict[str, Any] = {"retention": retention, "definitions": {}, "parts": parts(clock)}
        async with serving(tmp_path, **settings) as server:
            aged = Aged(server, clock)
            await aged.purge()
            assert await aged.ids() == left


async def test_the_running_server_purges_by_itself_and_frees_everything(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=DEFINITIONS, retention=0.2) as server:
        handles = await server.client.start_many(long, [3] * 250)
        assert len(handles) == 250
        held = await server.client.start(plain, "x", id="held")
        await held.hold()
        store = server.app.store

        async def left() -> list[str]:
            return [each.workflow_id async for each in server.client.list()]

        async with asyncio.timeout(30):
            while await left() != ["held"] or await store.reclaim():
                await asyncio.sleep(0.05)


async def test_a_held_workflow_stays_until_it_is_released(aged: Aged) -> None:
    client = aged.server.client
    handle = await client.start(plain, "x", id="w")
    assert await handle.result() == "x"
    assert (await handle.hold()).held
    assert (await handle.hold()).held, "again is no error"
    assert (await handle.get()).held
    assert [each.held async for each in client.list()] == [True]
    aged.clock.ahead = 31 * DAY
    await aged.purge()
    assert await aged.ids() == ["w"]
    with pytest.raises(WrongState) as caught:
        await handle.delete()
    assert caught.value.reason == "WORKFLOW_HELD"
    assert not (await handle.release()).held
    await aged.purge()
    assert await aged.ids() == []
    for verb in (client.hold, client.release):
        with pytest.raises(WorkflowNotFound):
            await verb("w")


async def test_an_open_workflow_can_be_held_before_its_end(aged: Aged) -> None:
    handle = await aged.server.client.start(waits, "x", id="w")
    assert (await handle.hold()).held
    assert (await handle.get()).held, "also as it is in memory"
    await handle.signal("go")
    assert await handle.result() == "x"
    assert (await handle.get()).held
    aged.clock.ahead = 31 * DAY
    await aged.purge()
    assert await aged.ids() == ["w"]


class Gated(Around):
    """A store whose loads wait, once they have read, until the test lets them pass."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.entered, self.gate = asyncio.Event(), asyncio.Event()

    async def load(self, keys: Any) -> Any:
        found = await self._inner.load(keys)
        self.entered.set()
        await self.gate.wait()
        return found


async def test_a_hold_that_meets_a_load_is_seen_in_memory(tmp_path: Path) -> None:
    stores: list[Gated] = []

    def open_gated(url: str, **options: Any) -> Any:
        stores.append(Gated(open_store(url, **options)))
        return stores[-1]

    settings: dict[str, Any] = {"definitions": DEFINITIONS, "parts": Parts(open_store=open_gated), "evict_after": 0.01}
    async with serving(tmp_path, **settings) as server, asyncio.timeout(30):
        (store,) = stores
        handle = await server.client.start(waits, "x", id="w")
        while server.app.engine.workflows_in_memory:
            await asyncio.sleep(0.01)
        await handle.signal("other")
        await store.entered.wait()
        assert (await handle.hold()).held
        store.gate.set()
        while not server.app.engine.workflows_in_memory:
            await asyncio.sleep(0)
        assert (await handle.get()).held


async def test_delete_removes_a_finished_workflow_at_once_and_its_id_starts_anew(aged: Aged) -> None:
    client = aged.server.client
    first = await client.start(waits, "x", id="w", labels={"team": "a"})
    with pytest.raises(WrongState) as caught:
        await first.delete()
    assert (caught.value.reason, caught.value.metadata["state"]) == ("WRONG_STATE", "WAITING")
    assert "cancel or terminate" in str(caught.value)
    assert await first.signal("go", request_id="r1")
    assert await first.result() == "x"
    assert await first.delete() is True
    assert await first.delete() is False
    for call in (first.get(), first.signal("go"), first.cancel(), first.terminate(), first.resume()):
        with pytest.raises(WorkflowNotFound):
            await call
    with pytest.raises(WorkflowNotFound):
        await anext(first.watch())
    assert [each async for each in client.list(labels={"team": "a"})] == []
    again = await client.start(waits, "other", id="w")
    assert again.started, "with another input, and the request id of a signal is new"
    assert await again.signal("go", request_id="r1")
    assert await again.result() == "other"


async def test_a_workflow_with_damaged_labels_can_be_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path, definitions=DEFINITIONS) as server:
        await server.client.run(plain, "x", id="w", labels={"team": "a"})
    with contextlib.closing(sqlite3.connect(tmp_path / "mendflow.db")) as other:
        other.execute("UPDATE workflows SET labels = '{\"team'")
        other.commit()
    async with serving(tmp_path, definitions=DEFINITIONS) as server:
        async with Client(server.address, retry_for=0.2) as client:
            assert await client.delete("w")
        assert [each async for each in server.client.list(labels={"team": "a"})] == []
        assert (await server.client.start(plain, "y", id="w")).started


async def test_a_deletion_by_uid_spares_a_later_workflow_of_the_same_id(aged: Aged) -> None:
    client = aged.server.client
    await client.run(plain, "x", id="w")
    uid = (await client.get("w")).uid
    await client.delete("w")
    await client.run(plain, "y", id="w")
    with pytest.raises(Exception, match="not found"):
        await aged.server.operator.DeleteWorkflow(DeleteWorkflowRequest(workflow_id="w", uid=uid))
    assert await aged.ids() == ["w"]


async def test_page_tokens_stay_valid_when_workflows_are_deleted(aged: Aged) -> None:
    client, stub = aged.server.client, aged.server.stub
    for number in range(6):
        await client.run(plain, "x", id=f"w-{number}")
    page = await stub.ListWorkflows(ws.ListWorkflowsRequest(page_size=2))
    assert [each.workflow_id for each in page.workflows] == ["w-5", "w-4"]
    for number in (5, 4, 3, 1):
        await client.delete(f"w-{number}")
    page = await stub.ListWorkflows(ws.ListWorkflowsRequest(page_size=2, page_token=page.next_page_token))
    assert [each.workflow_id for each in page.workflows] == ["w-2", "w-0"]
    assert not page.next_page_token
    events = await stub.ListEvents(ws.ListEventsRequest(workflow_id="w-0", page_size=1))
    await client.delete("w-0")
    following = ws.ListEventsRequest(workflow_id="w-0", page_size=1, page_token=events.next_page_token)
    with pytest.raises(Exception, match="not found"):
        await stub.ListEvents(following)
    await client.run(plain, "x", id="w-0")
    with pytest.raises(Exception, match="page_token"):
        await stub.ListEvents(following)


async def test_a_watch_of_a_deleted_workflow_ends_with_not_found_and_without_a_gap(aged: Aged) -> None:
    client = aged.server.client
    handle = await client.start(long, 1_500, id="w")
    assert await handle.result() == 1_500
    stream = handle.watch()
    seen = [(await anext(stream)).sequence]
    await client.delete("w")
    await aged.purge()

    async def rest() -> None:
        async for event in stream:
            seen.append(event.sequence)  # noqa: PERF401 - keeps what came before the refusal

    with pytest.raises(WorkflowNotFound):
        await rest()
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) < 3_000


async def test_a_drain_stops_the_purge_and_refuses_the_verbs(aged: Aged) -> None:
    client = aged.server.client
    await client.run(plain, "x", id="w")
    aged.server.app.engine.drain()
    assert not aged.server.app._may_purge()  # noqa: SLF001 - what the purger asks
    client.caller.retry_for = 0
    for call in (client.hold("w"), client.release("w"), client.delete("w")):
        with pytest.raises(Exception, match="shutting down"):
            await call


@pytest.mark.parametrize("retention", [0, -1, float("nan"), float("inf"), timedelta(0), timedelta(days=40_000)])
def test_a_retention_that_is_no_time_is_refused(retention: Any) -> None:
    with pytest.raises(DefinitionError, match="retention"):
        workflow(retention=retention)(plain.function)


def test_the_setting_is_30_days_and_forever_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().retention == 30 * DAY
    monkeypatch.setenv("MENDFLOW_RETENTION", "forever")
    assert load_settings().retention is None
    monkeypatch.setenv("MENDFLOW_RETENTION", "3600")
    assert load_settings().retention == 3600


def test_the_test_kit_keeps_workflows_over_skipped_months(tmp_path: Path) -> None:
    assert settings_in(tmp_path, {}).retention is None
    assert settings_in(tmp_path, {"retention": 5}).retention == 5


async def test_a_malformed_uid_is_refused(aged: Aged) -> None:
    with pytest.raises(Exception, match="uid"):
        await aged.server.operator.DeleteWorkflow(DeleteWorkflowRequest(workflow_id="w", uid="X"))
    with pytest.raises(InvalidRequest):
        await aged.server.client.hold("-")
