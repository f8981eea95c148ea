"""Disk errors: no commit is half done, and the store works again when the disk does."""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from mendflow_server.store.errors import CommitUnknown, StoreUnavailable
from mendflow_server.store.records import CommitOutcome, Guard, Life
from mendflow_server.store.sqlite import SqliteStore, writer
from tests.store.builders import commit, follow, make_row, new, start
from tests.support.mounting import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

#: More than the writer's cache holds, so that SQLite writes it before the commit.
LARGE = b"x" * 24_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mendflow.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Make the kernel refuse every write beyond this size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log_size(path: Path) -> int:
    return path.with_name(path.name + "-wal").stat().st_size


async def test_a_disk_that_fails_before_the_commit_changes_nothing(store: SqliteStore, path: Path) -> None:
    row = await start(store)
    with files_no_larger_than(1_000_000), pytest.raises(StoreUnavailable, match=str(path)):
        await commit(store, follow(make_row(key=row.key, last_sequence=2), LARGE), new(make_row("order-2"), b"one"))
    assert await store.heads([row.key]) == {row.key: Guard(1, 2)}
    assert await store.find(["order-2"]) == {}
    assert (await commit(store, follow(row, LARGE), new(make_row("order-2"), b"one"))).changes == [
        CommitOutcome.COMMITTED
    ] * 2
    assert await store.read_events(row.key, 2, limit=1, max_bytes=1) == [LARGE]


async def test_a_disk_that_fails_in_the_commit_leaves_the_outcome_to_be_settled(store: SqliteStore, path: Path) -> None:
    row = await start(store)
    fresh = make_row("order-2")
    # A reader keeps the log in place when the writer opens its connection anew.
    assert await store.heads([row.key]) == {row.key: Guard(1, 2)}
    with files_no_larger_than(log_size(path)):
        for _ in range(3):
            with pytest.raises(CommitUnknown, match="unknown"):
                await commit(store, follow(make_row(key=row.key, last_sequence=2), b"three"), new(fresh, b"one"))
            # The committer settles the outcome this way.
            assert await store.heads([row.key]) == {row.key: Guard(1, 2)}
            assert await store.find(["order-2"]) == {}
            assert fresh.key == 0
    assert (await commit(store, follow(row, b"three"), new(fresh, b"one"))).changes == [CommitOutcome.COMMITTED] * 2
    assert (await store.load([row.key, fresh.key]))[0].events == [b"one", b"two", b"three"]


@pytest.mark.parametrize("event", [b"three", LARGE], ids=["in the commit", "before the commit"])
async def test_a_full_disk_is_reported_and_the_connection_stays_open(tmp_path: Path, event: bytes) -> None:
    with small_disk(tmp_path):
        store = SqliteStore(tmp_path / "mendflow.db")
        await store.open()
        row = await start(store)
        ballast = fill(tmp_path)
        with mock.patch.object(writer, "connect_writer") as connecting:
            for _ in range(3):
                advice = "disk full; free some space"
                with pytest.raises(StoreUnavailable if event == LARGE else CommitUnknown, match=advice):
                    await commit(store, follow(make_row(key=row.key, last_sequence=2), event))
                assert await store.heads([row.key]) == {row.key: Guard(1, 2)}
            ballast.unlink()
            assert (await commit(store, follow(row, b"three"), new(make_row("order-2"), b"one"))).changes == [
                CommitOutcome.COMMITTED,
                CommitOutcome.COMMITTED,
            ]
        connecting.assert_not_called()
        assert (await store.load([row.key]))[0].events == [b"one", b"two", b"three"]
        await store.close()


async def test_a_beat_writes_to_the_disk(store: SqliteStore, path: Path) -> None:
    await store.begin_life(Life("a", 1, 1, drained=False))
    with files_no_larger_than(log_size(path)), pytest.raises((CommitUnknown, StoreUnavailable)):
        # Also when the clock stands still and the row would not change.
        await store.beat("a", 1)
    await store.beat("a", 1)


async def test_reads_succeed_while_the_disk_is_full(store: SqliteStore, path: Path) -> None:
    row = await start(store)
    with files_no_larger_than(log_size(path)):
        with pytest.raises((CommitUnknown, StoreUnavailable)):
            await commit(store, new(make_row("order-2"), b"one"))
        assert (await store.load([row.key]))[0].row == row


async def test_the_log_does_not_grow_while_readers_read(store: SqliteStore, path: Path) -> None:
    row = await start(store)
    for _ in range(60):
        await commit(store, follow(row, b"x" * 1_000_000))
        await store.read_events(row.key, 0, limit=5, max_bytes=1)
    assert log_size(path) < 45_000_000
