"""Limits of a database, of its roles and of its disk, and other transactions that are in the way of a commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import asyncpg
import pytest

from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.errors import CommitUnknown, StoreUnavailable
from mendflow_server.store.factory import open_store
from mendflow_server.store.records import Batch, CommitOutcome
from tests.store.builders import commit, follow, make_row, new, send, signal, start
from tests.support.mounting import fill, small_disk
from tests.support.postgres import Postgres, postgres_server
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Change

pytestmark = pytest.mark.proof

SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mendflow %'"
#: Timeouts that no store could keep.
TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")
SHORT = DatabaseAccess(statement_timeout=0.5)


@pytest.fixture
def store(postgres_store: Store) -> Store:
    return postgres_store


@pytest.fixture
def small() -> Iterator[Postgres]:
    """A database with few connections."""
    with postgres_server(settings=["max_connections = 8", "superuser_reserved_connections = 2"]) as server:
        yield server


async def ordinary(postgres: Postgres, schema: str) -> str:
    """Make the schema's own role, which is no superuser, and return its URL."""
    role = f"role_{schema}"
    await postgres.execute(f"CREATE ROLE {role} LOGIN", f"ALTER SCHEMA {schema} OWNER TO {role}")
    return postgres.url(schema).replace("//postgres@", f"//{role}@")


@pytest.mark.parametrize("readers", [1, 3, 7])
async def test_a_replica_uses_three_connections_and_those_that_read(
    postgres: Postgres, schema: str, readers: int
) -> None:
    url = await ordinary(postgres, schema)
    store = open_store(url, access=DatabaseAccess(reading_connections=readers))
    await store.open()
    await start(store)
    await asyncio.gather(*(store.find(["order-1"]) for _ in range(100)))
    while len(await postgres.fetch(f"{SESSIONS} AND usename = 'role_{schema}'")) != readers + 3:
        await asyncio.sleep(0.01)  # The one for notices is made beside the others.
    await store.close()


async def test_with_all_connections_taken_a_start_is_refused_and_a_running_server_recovers(small: Postgres) -> None:
    schema = await small.new_schema()
    url = await ordinary(small, schema)
    store = open_store(url, access=DatabaseAccess(reading_connections=1))
    await store.open()
    row = await start(store)
    hogs = []
    with contextlib.suppress(asyncpg.TooManyConnectionsError):
        while True:
            hogs.append(await asyncpg.connect(url))
    with pytest.raises(StoreUnavailable, match=r"too many connections; raise max_connections"):
        await open_store(url).open()
    # Its own connections are lost, and others take their places.
    for (pid,) in await small.fetch(SESSIONS):
        await small.execute(f"SELECT pg_terminate_backend({pid})")
    await small.execute(f"ALTER ROLE role_{schema} CONNECTION LIMIT 0")
    said = ""
    while "too many connections" not in said:
        with pytest.raises((StoreUnavailable, CommitUnknown)) as raised:
            await commit(store, follow(row, b"three"))
        said, row.last_sequence = str(raised.value), 2
        await asyncio.sleep(0.02)
    assert "CONNECTION LIMIT of the role" in said
    await small.execute(f"ALTER ROLE role_{schema} CONNECTION LIMIT -1")
    for hog in hogs:
        await hog.close()
    await retried(store, follow(row, b"three"))
    assert (await store.load([row.key]))[0].events == [b"one", b"two", b"three"]
    await store.close()


async def retried(store: Store, *changes: Change) -> None:
    """Commit as soon as that is possible."""
    while True:
        try:
            result = await commit(store, *changes)
        except StoreUnavailable:
            await asyncio.sleep(0.02)
        else:
            assert result.changes == [CommitOutcome.COMMITTED] * len(changes)
            return


async def test_timeouts_of_the_role_do_not_hold_for_the_server(postgres: Postgres, schema: str) -> None:
    url = await ordinary(postgres, schema)
    if await postgres.fetch("SELECT 1 FROM pg_settings WHERE name = 'transaction_timeout'"):
        await postgres.execute(f"ALTER ROLE role_{schema} SET transaction_timeout = '20ms'")
    for name in TIMEOUTS:
        await postgres.execute(f"ALTER ROLE role_{schema} SET {name} = '1ms'")
    store = open_store(url)
    await store.open()  # With the migrations.
    await store.commit(Batch([new(make_row(f"order-{number}"), b"x" * 10_000) for number in range(200)]))
    await send(store, signal("order-1"))
    assert len(await store.load([row.key for row in (await store.find(["order-1", "order-2"])).values()])) == 2
    await store.close()


async def test_a_statement_that_takes_too_long_is_cancelled_changes_nothing_and_is_repeatable(
    postgres: Postgres, schema: str
) -> None:
    store = open_store(postgres.url(schema), access=SHORT)
    await store.open()
    row = await start(store)
    stranger = await asyncpg.connect(postgres.url(schema))
    async with stranger.transaction():
        await stranger.execute("LOCK TABLE events IN SHARE MODE")
        # PostgreSQL says itself that nothing was changed, so the outcome is known.
        with pytest.raises(StoreUnavailable, match="raise MENDFLOW_STORE_STATEMENT_TIMEOUT"):
            await commit(store, follow(row, b"three"))
    await stranger.close()
    row.last_sequence = 2
    await commit(store, follow(row, b"three"))
    assert (await store.load([row.key]))[0].events == [b"one", b"two", b"three"]
    await store.close()


async def test_a_deadlock_is_repeated_inside(postgres: Postgres, schema: str, store: Store) -> None:
    rows = [await start(store, f"order-{number}") for number in range(2)]
    stranger = await asyncpg.connect(postgres.url(schema))
    await stranger.execute("SET deadlock_timeout = '1min'")  # So that the server's transaction is the victim.
    transaction = stranger.transaction()
    await transaction.start()
    lock = "SELECT 1 FROM workflows WHERE key = $1 FOR UPDATE"
    await stranger.execute(lock, rows[1].key)
    batch = asyncio.create_task(store.commit(Batch([follow(row, b"three") for row in rows])))
    waits = f"{SESSIONS} AND wait_event_type = 'Lock'"
    while not await postgres.fetch(waits):
        await asyncio.sleep(0.01)
    await stranger.execute(lock, rows[0].key)  # It returns when the server's transaction was ended.
    assert not batch.done()
    await transaction.rollback()
    await stranger.close()
    assert (await batch).changes == [CommitOutcome.COMMITTED] * 2
    assert "deadlock detected" in postgres.log
    for loaded in await store.load([row.key for row in rows]):
        assert loaded.events == [b"one", b"two", b"three"]


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_serialization_failure_that_does_not_pass_changes_nothing(
    postgres: Postgres, schema: str, store: Store, state: str
) -> None:
    await postgres.execute(
        f"""
        CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '{state}'; END $$
        """,
        f"CREATE TRIGGER refuse BEFORE INSERT ON {schema}.events FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse()",
    )
    with pytest.raises(StoreUnavailable, match="again"):
        await start(store)
    await postgres.execute(f"DROP TRIGGER refuse ON {schema}.events")
    assert await store.find(["order-1"]) == {}
    await start(store)


async def test_a_server_that_stops_in_a_transaction_does_not_keep_its_rows(postgres: Postgres, schema: str) -> None:
    async with Proxy(postgres.port) as proxy:
        url = postgres.url(schema, tcp=True).replace(f":{postgres.port}/", f":{proxy.port}/")
        store = open_store(url, access=SHORT)
        await store.open()
        row = await start(store)
        stranger = await asyncpg.connect(postgres.url(schema))
        transaction = stranger.transaction()
        await transaction.start()
        await stranger.execute("LOCK TABLE events IN SHARE MODE")
        # With a message the commit is a transaction of several statements. The answer to one does not arrive.
        batch = Batch([follow(row, b"three")], [signal()])
        task = asyncio.create_task(store.commit(batch))
        waits = f"{SESSIONS} AND wait_event_type = 'Lock'"
        while not await postgres.fetch(waits):
            await asyncio.sleep(0.01)
        proxy.stall()
        await transaction.rollback()
        idle = f"{SESSIONS} AND state = 'idle in transaction'"
        while not await postgres.fetch(idle):
            await asyncio.sleep(0.01)
        while True:
            with contextlib.suppress(asyncpg.LockNotAvailableError):
                await stranger.execute(f"SELECT 1 FROM {schema}.workflows FOR UPDATE NOWAIT")
                break
            await asyncio.sleep(0.02)
        await stranger.close()
        with pytest.raises((CommitUnknown, StoreUnavailable)):
            await task
        proxy.cut()
        proxy.flow()
        row.last_sequence = 2
        await retried(store, follow(row, b"three"))
        (loaded,) = await store.load([row.key])
        assert (loaded.events, loaded.inbox) == ([b"one", b"two", b"three"], [])
        await store.close()


async def test_a_full_disk_changes_nothing_until_there_is_room(postgres: Postgres, schema: str) -> None:
    # Only the tables of this store are on the full disk.
    place = postgres.directory / f"disk_{schema}"
    place.mkdir()
    with small_disk(place):
        space, owner = place / "space", postgres.directory.stat()
        space.mkdir()
        os.chown(space, owner.st_uid, owner.st_gid)
        await postgres.execute(f"CREATE TABLESPACE {schema} LOCATION '{space}'")
        store = open_store(f"{postgres.url(schema)}&default_tablespace={schema}")
        await store.open()
        row = await start(store)
        ballast = fill(place)
        filler, said = 0, ""
        while not said:  # Until the pages that the tables have are used up.
            filler += 1
            try:
                await start(store, f"filler-{filler}", os.urandom(100_000))
            except StoreUnavailable as error:
                said = str(error)
        assert "the disk of the database is full; free some space" in said
        assert await store.find([f"filler-{filler}"]) == {}
        ballast.unlink()
        await start(store, f"filler-{filler}", os.urandom(100_000))
        await commit(store, follow(row, b"three"))
        assert (await store.load([row.key]))[0].events == [b"one", b"two", b"three"]
        await store.close()
        await postgres.execute(f"DROP SCHEMA {schema} CASCADE", f"DROP TABLESPACE {schema}")
