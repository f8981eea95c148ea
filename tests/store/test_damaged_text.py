"""Damage that SQLite does not detect, but a reader does: it is reported as damage and affects no other workflow."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.errors import StoreDamaged
from mendflow_server.store.retrying import RetryingStore
from mendflow_server.store.sqlite import SqliteStore
from tests.store.builders import commit, make_row, new

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("column", ["explanation = cast(x'ff' as text)", "labels = '{\"shop\": '"])
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
        with pytest.raises(StoreDamaged, match="restore a backup"):
            await store.find(["order-1"])
        trying = RetryingStore(store)
        assert [loaded.row.workflow_id for loaded in await trying.load([damaged.key, whole.key])] == ["order-2"]
        assert trying.unreadable == {damaged.key}
        assert not trying.failure
    finally:
        await store.close()
