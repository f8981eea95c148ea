"""Damage that reads find: it is reported as damage, affects no other workflow, and does not keep the store busy."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.retrying import RetryingStore
from mendflow_server.store.sqlite import SqliteStore
from tests.store.builders import commit, make_row, new, send, signal, start

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "column",
    ["explanation = cast(x'ff' as text)", "labels = '{\"shop\": '", "labels = '[1]'", "labels = '{\"shop\": 1}'"],
)
async def test_text_that_cannot_be_decoded_is_damage(tmp_path: Path, column: str) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    try:
        damaged, whole = make_row("order-1"), make_row("order-2")
        await commit(store, new(damaged, b"one"), new(whole, b"one"))
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute(f"update workflows set {column} where workflow_id = 'order-1'")
            other.commit()
        assert not store.damage
        with pytest.raises(StoreDamaged, match="restore a backup") as raised:
            await store.find(["order-1"])
        assert store.damage == str(raised.value), "the health says so"
        trying = RetryingStore(store)
        assert [loaded.row.workflow_id for loaded in await trying.load([damaged.key, whole.key])] == ["order-2"]
        assert trying.unreadable == {damaged.key}
        assert not trying.failure
    finally:
        await store.close()


async def test_damage_in_the_inbox_is_logged_once_and_read_less_and_less_often(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    row = await start(store)
    await send(store, signal())
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        pages = [page for (page,) in other.execute("select rootpage from sqlite_schema where name like 'inbox%'")]
        size = other.execute("pragma page_size").fetchone()[0]
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * size)
            file.write(b"\x55" * size)
    store = SqliteStore(path)
    await store.open()
    pauses: list[float] = []
    enough = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 12:
            enough.set()
            await asyncio.Event().wait()

    with capture_logs() as logs:
        trying = RetryingStore(store, pause=pause)
        reading = asyncio.create_task(trying.until_done(lambda: store.read_inbox(row.key)))
        await enough.wait()
    assert pauses[:4] == [0.25, 0.5, 1.0, 2.0]
    assert pauses[-2:] == [60.0, 60.0]
    assert "restore a backup" in trying.failure
    assert store.damage == trying.failure
    assert sorted(line["event"] for line in logs) == ["store_damaged", "store_unavailable"]
    reading.cancel()
    await store.close()


async def test_message_of_no_known_kind_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    row = await start(store)
    await send(store, signal())
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript("pragma ignore_check_constraints = on; update inbox set kind = 9")
        other.commit()
    try:
        for read in (store.read_inbox(row.key), store.load([row.key])):
            with pytest.raises(StoreDamaged, match="a message in the inbox of workflow 'order-1' is damaged"):
                await read
        assert "restore a backup" in store.damage
    finally:
        await store.close()
