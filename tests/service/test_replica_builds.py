"""What a replica has paused because of its code continues as soon as a replica with other code joins."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mendflow import workflow
from mendflow.v1 import workflow_pb2
from mendflow_server.app import Parts
from mendflow_server.store.errors import StoreUnavailable
from mendflow_server.store.factory import open_store
from tests.support.build import Around
from tests.support.servers import serving
from tests.support.workflow_states import in_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.postgres import Postgres

PAUSED = workflow_pb2.WORKFLOW_STATE_PAUSED


@workflow(name="order", on_error="pause")
async def broken() -> str:
    message = "not written yet"
    raise RuntimeError(message)


@workflow(name="order", on_error="pause")
async def mended() -> str:
    return "done"


OLD, NEW = {"order": broken}, {"order": mended}


class FailsOnce(Around):
    """What replicas need of a store, whose first try to give up stopped workflows fails."""

    failed = False

    async def release_stopped(self, reasons: Sequence[int]) -> None:
        if not self.failed:
            self.failed = True
            message = "the database is away"
            raise StoreUnavailable(message)
        await self._inner.release_stopped(reasons)


class Flaky(Around):
    """A store with such replicas."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.replicas = FailsOnce(inner.replicas)


async def test_stopped_workflows_are_given_up_when_the_first_try_fails(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url(await postgres.new_schema())
    parts = Parts(open_store=lambda *values, **options: Flaky(open_store(*values, **options)))
    async with serving(tmp_path, parts=parts, definitions=OLD, store=url, build="old") as old:
        await old.client.start("order", id="o")
        await in_state(old.client, "o", PAUSED)
        async with serving(tmp_path, definitions=NEW, store=url, build="new") as new:
            assert await asyncio.wait_for(new.client.handle("o").result(), 10) == "done"
        assert isinstance(old.app.store.replicas, FailsOnce)
        assert old.app.store.replicas.failed


async def test_a_replica_that_gave_up_a_workflow_shows_what_another_one_made_of_it(
    tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.url(await postgres.new_schema())
    async with serving(tmp_path, definitions=OLD, store=url, build="old", evict_after=3_600) as old:
        await old.client.start("order", id="o")
        await in_state(old.client, "o", PAUSED)
        waiting = asyncio.ensure_future(old.client.handle("o").result())
        async with serving(tmp_path, definitions=NEW, store=url, build="new") as new:
            assert await asyncio.wait_for(new.client.handle("o").result(), 10) == "done"
            assert await asyncio.wait_for(waiting, 10) == "done"
