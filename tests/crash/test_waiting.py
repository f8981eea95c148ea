"""Waiting is free: a workflow that sleeps, waits for a signal or backs off holds no slot and soon no memory."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import event_pb2
from mendflow_server.app import Parts
from mendflow_server.history.state import FINAL_STATES
from mendflow_server.supervisor.supervisor import Supervisor
from tests.support.faults import build_with
from tests.support.promises import Evidence, Look, Promise, broken, read_store
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.promises import Stored
    from tests.support.servers import Server

#: How many workflows of each type wait.
COUNT = 80
#: After this many seconds of rest a workflow leaves the memory.
REST = 0.2
#: What wakes within this many seconds is in memory: the supervisor looks two ahead, and ticks twice in one.
AHEAD = 3.0
#: The time limit for the end of the others, in seconds. They take a fraction of it; with a fault they may never end.
PATIENCE, LITTLE_PATIENCE = 30.0, 1.0


def others_are_over(stored: Stored) -> bool:
    """Return whether every workflow that does not wait has ended."""
    return all(row.state in FINAL_STATES for name, row in stored.rows.items() if name.startswith("other-"))


def is_queued(stored: Stored) -> bool:
    """Return whether a workflow waits for a slot."""
    return any(row.reason == event_pb2.STATE_REASON_SLOT for row in stored.rows.values())


async def look_at(server: Server, store: Path, patience: float) -> list[Look]:
    """Look once when the others have ended, and once when the waiting workflows should have left the memory."""
    engine = server.app.engine
    await until(lambda: not is_queued(read_store(store)) and others_are_over(read_store(store)), patience)
    looks = [Look(time.time(), read_store(store), slots=1)]

    def only_what_wakes_soon_is_in_memory() -> bool:
        looks[1:] = [
            Look(time.time(), read_store(store), slots=1, workflows_in_memory=engine.workflows_in_memory, soon=AHEAD)
        ]
        return not broken(Evidence(looks[1].stored, looks=looks[1:], over=False))

    await until(only_what_wakes_soon_is_in_memory, patience)
    return looks


@pytest.mark.parametrize("fault", ["", "slot_kept_in_backoff", "nothing_leaves_memory"])
async def test_waiting_workflow_holds_no_slot_and_no_memory(tmp_path: Path, fault: str) -> None:
    """With one slot and hundreds that wait, the others continue, and memory holds only what wakes soon."""
    build = build_with([fault] if fault else [])
    async with serving(tmp_path, attempt_slots=1, evict_after=REST, new_app=build.new_app) as server:
        client = server.client
        for workflow_type, value in (("sleeper", 3_600.0), ("wait_for", "w"), ("retried_late", "w")):
            names = [f"{workflow_type}-{number}" for number in range(COUNT)]
            await client.start_many(workflow_type, [value] * COUNT, ids=names)
        await client.start_many("three", ["w"] * 20, ids=[f"other-{number}" for number in range(20)])
        looks = await look_at(server, tmp_path / "mendflow.db", LITTLE_PATIENCE if fault else PATIENCE)
        for number in range(COUNT if not fault else 0):
            await client.signal(f"wait_for-{number}", "go", "on", request_id=f"go-{number}")
        if not fault:
            assert await client.handle("wait_for-0").result() == "w: on"
    found = broken(Evidence(read_store(tmp_path / "mendflow.db"), looks=looks, over=False))
    assert {breach.promise for breach in found} == ({Promise.WAITING_IS_FREE} if fault else set()), found
    waiting = [row for row in looks[-1].stored.rows.values() if row.state not in FINAL_STATES]
    assert len(waiting) > 2 * COUNT


async def test_work_due_during_downtime_continues_with_the_recovery(
    tmp_path: Path,
) -> None:
    """The recovery does this, not the first tick after it: here no tick comes."""
    async with serving(tmp_path, evict_after=REST) as server:
        await server.client.start("sleeper", 0.3, id="asleep")
        assert await until(lambda: read_store(tmp_path / "mendflow.db").rows)
    while time.time() < (read_store(tmp_path / "mendflow.db").rows["asleep"].wake or 0.0):
        time.sleep(0.01)  # noqa: ASYNC251 - no other task is there that could continue
    parts = Parts(supervisor=functools.partial(Supervisor, tick=3_600.0))
    async with serving(tmp_path, parts=parts) as server:
        assert await server.client.handle("asleep").result(timeout=10) == "awake"
