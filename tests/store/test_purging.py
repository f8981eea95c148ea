"""Purging: a workflow is whole or gone, the rest stays, and the space comes back."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from mendflow_server.store.purging import ROWS_AT_ONCE
from mendflow_server.store.records import Filter, PurgeOutcome, PurgeResult
from mendflow_server.store.sqlite import SqliteStore
from mendflow_server.store.sqlite.migrate import APPLICATION_ID, migrations
from tests.store.builders import RUNNING, SUCCEEDED, commit, end, everything, follow, send, signal, start

if TYPE_CHECKING:
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Row

TABLES = ("workflows", "labels", "events", "inbox", "signal_requests", "heartbeats", "alerts", "suspects", "purged")


async def finish(store: Store, workflow_id: str, end_time: int = 9_000, *events: bytes, **fields: Any) -> Row:
    """Commit a workflow from its start to its end."""
    row = await start(store, workflow_id, *events, **fields)
    change = end(row)
    change.row.end_time = end_time
    await commit(store, change)
    return row


async def reclaimed(store: Store) -> int:
    """Free everything, and return the number of portions."""
    portions = 1
    while await store.reclaim():
        portions += 1
    return portions


def counts(path: Path) -> dict[str, int]:
    connection = sqlite3.connect(path)
    try:
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
    finally:
        connection.close()


async def ids(store: Store, **condition: Any) -> list[str]:
    page = await store.list_workflows(Filter(**condition), limit=100, after=None)
    return sorted(row.workflow_id for row in page.rows)


async def test_expired_workflows_are_gone_and_the_others_stay(store: Store) -> None:
    for number in range(4):
        await finish(store, f"old-{number}", 1_000 + number)
    await finish(store, "new", 5_000)
    await finish(store, "other", 1_000, workflow_type="refund")
    await start(store, "open")
    assert await store.first_ended() == {"checkout": 1_000, "refund": 1_000}
    assert await store.purge_ended("checkout", 1_003, limit=3) == 3
    assert await ids(store) == ["new", "old-3", "open", "other"], "those that ended first go first"
    assert await store.purge_ended("checkout", 1_003, limit=3) == 1
    assert await store.purge_ended("checkout", 1_003, limit=3) == 0
    assert await ids(store) == ["new", "open", "other"]


async def test_a_held_workflow_is_not_purged_until_it_is_released(store: Store) -> None:
    row = await finish(store, "order-1", 1_000)
    held = await store.set_held("order-1", held=True)
    assert held is not None
    assert (held.held, held.key) == (True, row.key)
    assert await store.set_held("missing", held=True) is None
    assert (await store.find(["order-1"]))["order-1"].held
    assert await store.first_ended() == {}
    assert await store.purge_ended("checkout", 2_000, limit=9) == 0
    assert await store.purge("order-1") == PurgeResult(PurgeOutcome.HELD, SUCCEEDED)
    released = await store.set_held("order-1", held=False)
    assert released is not None
    assert not released.held
    assert await store.purge_ended("checkout", 2_000, limit=9) == 1


async def test_a_hold_outlives_the_changes_of_the_driver(store: Store) -> None:
    row = await start(store)
    await store.set_held("order-1", held=True)
    await commit(store, follow(row, b"next"))
    await commit(store, end(row))
    assert (await store.find(["order-1"]))["order-1"].held


async def test_one_workflow_is_purged_only_at_its_end_and_by_its_uid(store: Store) -> None:
    row = await start(store)
    assert await store.purge("missing") == PurgeResult(PurgeOutcome.NOT_FOUND, 0)
    assert await store.purge("order-1") == PurgeResult(PurgeOutcome.OPEN, RUNNING)
    await commit(store, end(row))
    assert await store.purge("order-1", uid="f" * 32) == PurgeResult(PurgeOutcome.NOT_FOUND, 0)
    assert await store.purge("order-1", uid=row.uid) == PurgeResult(PurgeOutcome.PURGED, SUCCEEDED)
    assert await store.purge("order-1", uid=row.uid) == PurgeResult(PurgeOutcome.NOT_FOUND, 0)


async def test_nothing_of_a_purged_workflow_is_left_and_its_id_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    row = await everything(store, "order-1")
    assert (await store.purge("order-1")).outcome is PurgeOutcome.PURGED
    # Also while its events are still there, no reader sees a part of them.
    assert counts(path)["events"] == 4
    assert await store.find(["order-1"]) == {}
    assert await store.snapshot("order-1") is None
    assert await store.load([row.key]) == []
    assert await store.heads([row.key]) == {}
    assert await store.read_events(row.key, 0, limit=9, max_bytes=9_999) == []
    assert await ids(store, labels=(("team", "a"),)) == []
    again = await start(store, "order-1", labels={"team": "a"})
    assert again.key > row.key
    assert [outcome.name for outcome in await send(store, signal("order-1", "r1"))] == ["COMMITTED"]
    await reclaimed(store)
    assert (await store.load([again.key]))[0].events == [b"one", b"two"]
    assert len(await store.read_inbox(again.key)) == 1
    await store.close()
    assert counts(path) == {
        **dict.fromkeys(TABLES, 0), "workflows": 1, "labels": 1, "events": 2, "inbox": 1, "signal_requests": 1,
    }  # fmt: skip


async def test_a_long_history_is_freed_in_portions_and_seen_by_no_reader_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    long = await finish(store, "long", 9_000, *[b"x"] * 5_000)
    large = await finish(store, "large", 9_000, *[b"x" * 700_000] * 6)
    other = await finish(store, "other", 9_000, workflow_type="refund")
    assert await store.purge_ended("checkout", 9_000, limit=9) == 2
    before = counts(path)["events"]
    while await store.reclaim():
        after = counts(path)["events"]
        assert before - after <= ROWS_AT_ONCE
        before = after
        for row in (long, large):
            assert await store.read_events(row.key, 0, limit=9, max_bytes=9_999) == []
    assert before == other.last_sequence
    await store.close()
    assert counts(path)["purged"] == 0


async def test_a_store_that_is_opened_again_continues_and_uses_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    newest = await finish(store, "order-1", 9_000, *[b"x"] * 3_000)
    await store.purge("order-1")
    assert await store.reclaim()
    await store.close()
    for left in (True, False):
        store = SqliteStore(path)
        await store.open()
        following = await finish(store, f"order-{left}")
        assert following.key > newest.key
        assert (await store.load([following.key]))[0].events == [b"one", b"two", b"end"]
        await reclaimed(store)
        newest = following
        await store.purge(f"order-{left}")
        await reclaimed(store)
        await store.close()
    assert counts(path) == dict.fromkeys(TABLES, 0)


async def test_the_file_gets_smaller_in_bounded_steps(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    for number in range(40):
        await finish(store, f"order-{number}", 9_000, *[b"x" * 20_000] * 10)
    kept = await start(store, "kept", b"k" * 20_000)
    await store.purge_ended("checkout", 9_000, limit=100)
    await reclaimed(store)
    assert path.stat().st_size < 3_000_000, "the file had 8 MB of events"
    # SQLite copies the log into the file and begins it anew after 4,000 pages, also during a purge.
    assert path.with_name("mendflow.db-wal").stat().st_size < 5_000 * 4_120
    assert (await store.load([kept.key]))[0].events == [b"k" * 20_000]
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_request_ids_are_freed_in_portions(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path, signal_limit=10_000)
    await store.open()
    for workflow_id, number in (("many", 2_500), ("few", 3), ("other", 2)):
        row = await start(store, workflow_id, workflow_type="other" if workflow_id == "other" else "checkout")
        await send(store, *(signal(workflow_id, f"r{index}") for index in range(number)))
        messages = await store.read_inbox(row.key)
        await commit(store, end(row, consumed=tuple(message.id for message in messages)))
    await store.purge_ended("checkout", 9_000, limit=9)
    before = counts(path)["signal_requests"]
    while await store.reclaim():
        after = counts(path)["signal_requests"]
        assert before - after <= ROWS_AT_ONCE
        before = after
    assert before == 2
    await store.close()


def older_store(path: Path) -> None:
    """Make a store of the second schema, with a running and a finished workflow."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    for script in migrations()[:2]:
        connection.executescript(script)
    for key, workflow_id, state, ended in ((1, "running", RUNNING, None), (2, "ended", SUCCEEDED, 1_000)):
        connection.execute(
            "INSERT INTO workflows "
            "VALUES (?, ?, 'u', 'checkout', ?, 0, '', 1, 'replica-a', 2, NULL, 500, ?, 0, 't', '{}')",
            (key, workflow_id, state, ended),
        )
        for sequence in (1, 2):
            connection.execute("INSERT INTO events VALUES (?, ?, ?)", (key, sequence, b"x" * 1_500_000))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()


async def test_an_older_file_keeps_its_work_and_its_finished_workflows_can_be_purged(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    older_store(path)
    size = path.stat().st_size
    store = SqliteStore(path)
    await store.open()
    row = (await store.find(["running"]))["running"]
    assert not row.held
    await commit(store, follow(row, b"next"))
    assert await store.purge_ended("checkout", 1_000, limit=9) == 1
    with capture_logs() as logs:
        await reclaimed(store)
        await reclaimed(store)
    assert [entry["event"] for entry in logs] == ["store_cannot_shrink"], "said once"
    # Its pages stay in the file and are used again: only a file of this version gets smaller.
    await start(store, "new", b"y" * 1_500_000, b"y" * 1_500_000)
    await store.close()
    assert path.stat().st_size <= size + 100_000
    assert counts(path)["events"] == 5


@pytest.mark.parametrize("label", ["a", 'quote"d', "ü\u2028", ""])
async def test_labels_of_any_text_are_purged(tmp_path: Path, label: str) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    await finish(store, "order-1", 9_000, labels={"team": label, "team.b": label})
    await store.purge("order-1")
    await store.close()
    assert counts(path)["labels"] == 0


@pytest.mark.parametrize("labels", ['{"team', "", "[1]", '{"team": 1}', '{"team": null}', "7", "\x00"])
async def test_damaged_labels_keep_no_workflow_from_being_purged(tmp_path: Path, labels: str) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    for workflow_id in ("order-1", "order-2", "order-3"):
        await finish(store, workflow_id, 9_000, labels={"team": workflow_id})
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE workflows SET labels = ? WHERE workflow_id IN ('order-2', 'order-3')", (labels,))
        other.commit()
    assert await store.purge("order-3") == PurgeResult(PurgeOutcome.PURGED, SUCCEEDED)
    assert await store.purge_ended("checkout", 9_000, limit=9) == 2
    assert await ids(store) == []
    assert await ids(store, labels=(("team", "order-2"),)) == []
    await reclaimed(store)
    await store.close()
    assert counts(path) == {**dict.fromkeys(TABLES, 0), "labels": 2}
