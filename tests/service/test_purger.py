"""The purger's loop: how long it pauses, and what it does when the store fails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from mendflow_server.runtime.clock import SystemClock
from mendflow_server.settings import load_settings
from mendflow_server.store.errors import StoreDamaged, StoreUnavailable
from mendflow_server.store.sqlite import SqliteStore
from mendflow_server.supervisor import purger
from mendflow_server.supervisor.purger import Purger
from tests.store.builders import commit, end, start
from tests.support.build import Around

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "mendflow.db")
    await store.open()
    yield store
    await store.close()


class Failing(Around):
    """A store whose first looks of the purger fail."""

    def __init__(self, inner: Any, failures: list[Exception]) -> None:
        super().__init__(inner)
        self._failures = failures

    async def first_ended(self) -> Any:
        if self._failures:
            raise self._failures.pop(0)
        return await self._inner.first_ended()


class Ahead(SystemClock):
    """A clock whose monotonic time the test moves ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


class Stopped(Exception):
    """The test has seen enough."""


async def pauses(store: Any, number: int, *, may_run: bool = True) -> list[float]:
    """Run the purger for some rounds without waiting, and return its pauses."""
    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        seen.append(seconds)
        if len(seen) == number:
            raise Stopped

    each = Purger(
        store=store,
        clock=SystemClock(),
        settings=load_settings(retention=1.0),
        definitions={},
        may_run=lambda: may_run,
        sleep=sleep,
    )
    with pytest.raises(Stopped):
        await asyncio.wait_for(each.run(), 30)
    return seen


async def test_portions_follow_each_other_until_nothing_is_due(store: SqliteStore) -> None:
    rows = [await start(store, f"order-{number}") for number in range(purger.PORTION * 2 + 1)]
    await commit(store, *map(end, rows))
    with capture_logs() as logs:
        seen = await pauses(store, 6)
    assert seen[-1] == purger.LOOK
    assert all(pause >= purger.PAUSE for pause in seen[:3])
    assert [entry["count"] for entry in logs if entry["event"] == "workflows_purged"] == [len(rows)]
    assert await store.find([row.workflow_id for row in rows]) == {}


async def test_nothing_is_purged_while_the_server_recovers_or_drains(store: SqliteStore) -> None:
    await commit(store, end(await start(store)))
    assert await pauses(store, 3, may_run=False) == [purger.LOOK] * 3
    assert set(await store.find(["order-1"])) == {"order-1"}


async def test_an_error_of_the_store_is_logged_once_and_tried_again_later(store: SqliteStore) -> None:
    await commit(store, end(await start(store)))
    failing = Failing(store, [StoreUnavailable("disk full")] * 2)
    with capture_logs() as logs:
        seen = await pauses(failing, 5)
    assert seen[:2] == [purger.ERROR_PAUSE] * 2
    assert [entry["event"] for entry in logs] == ["purge_failed", "workflows_purged"]
    assert await store.find(["order-1"]) == {}


async def test_damage_ends_the_purge_and_not_the_server(store: SqliteStore) -> None:
    failing = Failing(store, [StoreDamaged("page 7")])
    each = Purger(
        store=failing, clock=SystemClock(), settings=load_settings(), definitions={}, may_run=lambda: True
    )  # fmt: skip
    with capture_logs() as logs:
        await asyncio.wait_for(each.run(), 30)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("purge_stopped", "error")]


class FailingPart(Around):
    """A store in which the portion of one type, or the reclaim, fails until the test says otherwise."""

    def __init__(self, inner: Any, failing: str, error: Exception) -> None:
        super().__init__(inner)
        self.failing = failing
        self._error = error

    async def purge_ended(self, workflow_type: str, until: int, *, limit: int) -> int:
        if workflow_type == self.failing:
            raise self._error
        return int(await self._inner.purge_ended(workflow_type, until, limit=limit))

    async def reclaim(self) -> bool:
        if self.failing == "reclaim":
            raise self._error
        return bool(await self._inner.reclaim())


async def ended(store: SqliteStore, *types: str) -> None:
    """Commit one finished workflow of each type, whose id is its type."""
    await commit(store, *[end(await start(store, each, workflow_type=each)) for each in types])


@pytest.mark.parametrize(
    ("error", "event"), [(StoreUnavailable("malformed"), "purge_failed"), (StoreDamaged("page 7"), "purge_stopped")]
)
@pytest.mark.parametrize("failing", ["a", "b", "reclaim"])
async def test_what_fails_in_one_part_keeps_no_other_type_from_being_purged(
    store: SqliteStore, failing: str, error: Exception, event: str
) -> None:
    await ended(store, "a", "b", "c")
    with capture_logs() as logs:
        seen = await pauses(FailingPart(store, failing, error), 6)
    assert set(await store.find(["a", "b", "c"])) == {failing} - {"reclaim"}
    assert max(seen) <= purger.LOOK, "the others do not wait for it"
    failures = [entry for entry in logs if entry["event"].startswith(("purge_failed", "purge_stopped"))]
    assert [entry["event"] for entry in failures] == [event]
    assert failures[0].get("workflow_type", "reclaim") == failing


async def test_a_type_that_failed_is_purged_after_a_while(store: SqliteStore) -> None:
    await ended(store, "a", "b")
    failing = FailingPart(store, "a", StoreUnavailable("malformed"))
    clock = Ahead()
    each = Purger(
        store=failing, clock=clock, settings=load_settings(retention=1.0), definitions={}, may_run=lambda: True
    )  # fmt: skip
    while await each.step():
        pass
    failing.failing = ""
    await each.step()
    assert set(await store.find(["a", "b"])) == {"a"}
    clock.ahead = purger.ERROR_PAUSE
    await each.step()
    assert await store.find(["a", "b"]) == {}


async def test_types_take_turns_so_that_none_waits_for_another_to_be_empty(store: SqliteStore) -> None:
    full = [
        await start(store, f"{each}-{number}", workflow_type=each)
        for each in ("a", "b", "c")
        for number in range(purger.PORTION + 1)
    ]
    await commit(store, *map(end, full))
    order: list[str] = []

    class Noting(Around):
        async def purge_ended(self, workflow_type: str, until: int, *, limit: int) -> int:
            order.append(workflow_type)
            return int(await self._inner.purge_ended(workflow_type, until, limit=limit))

    await pauses(Noting(store), 8)
    assert order[:6] == ["a", "b", "c", "a", "b", "c"]
