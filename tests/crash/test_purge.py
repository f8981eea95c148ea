"""A server that is killed while it purges leaves each workflow whole or gone, and the next one finishes the purge."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.proof

WORKFLOWS = 400
KILLS = 4


async def start_all(server: ServerProcess) -> None:
    async with Client(server.grpc_address) as client:
        ids = [f"w-{number}" for number in range(WORKFLOWS)]
        await client.start_many("three", ["x"] * WORKFLOWS, ids=ids)
        for workflow_id in ids:
            assert await client.handle(workflow_id).result() is not None


def stored(path: Path) -> tuple[int, int]:
    """Return the number of workflows and of all rows that a purge deletes. Check that each workflow is whole."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        torn = connection.execute(
            "SELECT workflow_id FROM workflows "
            "WHERE last_sequence <> (SELECT count(*) FROM events WHERE events.key = workflows.key)"
        ).fetchall()
        assert torn == []
        orphans = connection.execute(
            "SELECT DISTINCT key FROM events WHERE key NOT IN (SELECT key FROM workflows) "
            "AND key NOT IN (SELECT key FROM purged)"
        ).fetchall()
        assert orphans == [], "the next purge finds all that is left"
        (workflows,) = connection.execute("SELECT count(*) FROM workflows").fetchone()
        (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
        (purged,) = connection.execute("SELECT count(*) FROM purged").fetchone()
        return workflows, events + purged
    finally:
        connection.close()


def copied(server: ServerProcess, folder: Path) -> Path:
    """Return a copy of the files as the killed server left them."""
    folder.mkdir()
    for path in server.directory.glob("mendflow.db*"):
        shutil.copy(path, folder)
    return folder / "mendflow.db"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_purge_leaves_each_workflow_whole_or_gone(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "data"
    folder.mkdir()
    server = ServerProcess(folder, environment={"MENDFLOW_RETENTION": "forever"})
    server.start()
    try:
        asyncio.run(start_all(server))
        assert server.terminate() == 0
        server.environment = {"MENDFLOW_RETENTION": "0.001"}
        before = stored(server.store)
        assert before[0] == WORKFLOWS
        partial = 0
        for number in range(KILLS):
            goal = before[1] * (1 - (number + chance.random()) / KILLS)
            server.start()
            asyncio.run(until_below(server.store, goal))
            server.kill()
            left = stored(copied(server, tmp_path / f"after-{number}"))
            partial += 0 < left[1] < before[1]
        assert partial, "a kill came in the middle of a purge"
        server.start()
        asyncio.run(until_below(server.store, 1))
        assert server.terminate() == 0
        assert stored(server.store) == (0, 0)
    finally:
        server.kill()


async def until_below(path: Path, goal: float) -> None:
    """Wait until fewer rows than this are left."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=20)
    try:
        async with asyncio.timeout(30):
            while (
                sum(
                    connection.execute("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM purged)").fetchone()
                )
                >= goal
            ):
                await asyncio.sleep(0.001)
    finally:
        connection.close()
