"""A database that ends, cuts, stalls or refuses: each commit is there once or not at all, and errors say what to do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from mendflow_server.store.errors import CommitUnknown, StoreDamaged, StoreRefused, StoreUnavailable
from mendflow_server.store.factory import open_store
from mendflow_server.store.postgres import PostgresStore, failures, migrate
from mendflow_server.store.postgres.membership import STORE
from mendflow_server.store.records import Batch, Change, CommitOutcome, Guard
from tests.store.builders import commit, follow, make_row, new, send, signal, start
from tests.store.committing import committing, submitted
from tests.support.proxy import Proxy
from tests.support.servers import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow_server.store.interface import Store
    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof

#: What the session that writes is doing, as PostgreSQL sees it.
WRITERS = """
SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mendflow %' AND state = 'active'
    AND wait_event_type = 'Lock' AND query LIKE 'WITH %'
"""
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mendflow %'"


@pytest.fixture
def store(postgres_store: Store) -> Store:
    return postgres_store


@contextlib.asynccontextmanager
async def blocked(postgres: Postgres, schema: str) -> AsyncIterator[None]:
    """Make every commit with events wait in the database until the end of the context."""
    connection = await asyncpg.connect(postgres.url(schema))
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE events IN SHARE MODE")
    try:
        yield
    finally:
        await transaction.rollback()
        await connection.close()


async def waiting(postgres: Postgres) -> list[int]:
    """Wait until a commit waits in the database, and return its backends."""
    while not (found := await postgres.fetch(WRITERS)):
        await asyncio.sleep(0.01)
    return [pid for (pid,) in found]


async def test_a_backend_killed_in_the_middle_of_a_commit_leaves_nothing_and_it_is_sent_again(
    postgres: Postgres, schema: str, store: Store
) -> None:
    row = await start(store)
    async with committing(store) as committer:
        async with blocked(postgres, schema):
            outcomes = [submitted(committer, follow(row, b"three")), submitted(committer, new(make_row("new"), b"one"))]
            (pid,) = await waiting(postgres)
            await postgres.execute(f"SELECT pg_terminate_backend({pid})")
            await until(lambda: committer.failure)
            assert "the connection was lost" in committer.failure
        assert [await each for each in outcomes] == [CommitOutcome.COMMITTED] * 2
    (loaded,) = await store.load([row.key])
    assert loaded.events == [b"one", b"two", b"three"]
    found = await store.find(["new"])
    assert (await store.load([found["new"].key]))[0].events == [b"one"]


async def test_a_commit_whose_reply_is_lost_is_committed_once(postgres: Postgres, schema: str) -> None:
    async with Proxy(postgres.port) as proxy:
        url = postgres.url(schema, tcp=True).replace(f":{postgres.port}/", f":{proxy.port}/")
        store = open_store(url)
        await store.open()
        row = await start(store)
        async with committing(store) as committer:
            async with blocked(postgres, schema):
                outcome = submitted(committer, follow(row, b"three"))
                await waiting(postgres)
                proxy.stall()  # The statement has arrived; its answer does not come back.
            while not await postgres.fetch(f"SELECT 1 FROM {schema}.events WHERE sequence = 3"):
                await asyncio.sleep(0.01)
            proxy.cut()
            proxy.flow()
            assert await outcome is CommitOutcome.COMMITTED
        (loaded,) = await store.load([row.key])
        assert loaded.events == [b"one", b"two", b"three"]
        assert loaded.row.last_sequence == 3
        await store.close()


async def test_an_earlier_backend_is_ended_before_the_outcome_of_its_commit_is_read(
    postgres: Postgres, schema: str
) -> None:
    async with Proxy(postgres.port) as proxy:
        store = open_store(postgres.url(schema, tcp=True).replace(f":{postgres.port}/", f":{proxy.port}/"))
        await store.open()
        row = await start(store)
        async with blocked(postgres, schema):
            task = asyncio.create_task(commit(store, follow(row, b"three")))
            (pid,) = await waiting(postgres)
            proxy.cut()
            with pytest.raises(CommitUnknown):
                await task
            # The database has not noticed: the commit still waits there, and would be done after this read.
            assert await postgres.fetch(WRITERS)
            with capture_logs() as logs:
                heads = await retried(lambda: store.heads([row.key]))
            assert heads == {row.key: Guard(1, 2)}
            assert [entry["backend"] for entry in logs if entry["event"] == "earlier_backend_ended"] == [pid]
            assert not await postgres.fetch(WRITERS)
        assert await store.heads([row.key]) == {row.key: Guard(1, 2)}
        await store.close()


async def retried(call: Any) -> Any:
    """Repeat a call until it succeeds, as the server does."""
    while True:
        try:
            return await call()
        except (StoreUnavailable, CommitUnknown):
            await asyncio.sleep(0.02)


async def test_a_store_that_a_program_needs_for_itself_is_refused(postgres: Postgres, schema: str) -> None:
    url = postgres.url(schema)
    stranger = await asyncpg.connect(url, server_settings={"application_name": "mendflow elsewhere 7"})
    oid = await stranger.fetchval("SELECT oid::bigint FROM pg_namespace WHERE nspname = $1", schema)
    await stranger.execute("SELECT pg_advisory_lock($1, $2)", STORE, oid)
    refused = open_store(url)
    with pytest.raises(
        StoreRefused,
        match=r"in use by mendflow elsewhere 7 .*\d+, and one of both needs it for itself; stop that program",
    ):
        await refused.open()
    with pytest.raises(StoreUnavailable):
        await refused.find(["order-1"])
    # Another schema of the database is another store.
    other = open_store(postgres.url(await postgres.new_schema()))
    await other.open()
    await other.close()
    await stranger.close()
    first, second = open_store(url), open_store(url)
    await first.open()
    await second.open()
    await start(first)
    assert set(await second.find(["order-1"])) == {"order-1"}
    for store in (first, second):
        await store.close()


async def test_an_ordinary_role_needs_no_privilege_but_its_schema(postgres: Postgres, schema: str) -> None:
    role = f"ordinary_{schema}"
    await postgres.execute(f"CREATE ROLE {role} LOGIN", f"ALTER SCHEMA {schema} OWNER TO {role}")
    url = postgres.url(schema).replace("//postgres@", f"//{role}@")
    store = open_store(url)
    await store.open()
    row = await start(store)
    # It may end its own earlier backend.
    async with committing(store) as committer:
        async with blocked(postgres, schema):
            outcome = submitted(committer, follow(row, b"three"))
            (pid,) = await waiting(postgres)
            connection = await asyncpg.connect(url)
            assert await connection.fetchval("SELECT pg_terminate_backend($1)", pid)
            await connection.close()
            assert await until(lambda: committer.failure)
        assert await outcome is CommitOutcome.COMMITTED
    await store.close()


async def test_the_refusal_of_a_role_without_its_schema_says_what_to_grant(postgres: Postgres, schema: str) -> None:
    role = f"stranger_{schema}"
    await postgres.execute(f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    with pytest.raises(StoreRefused, match="grant it CREATE and USAGE on the schema"):
        await open_store(postgres.url(schema).replace("//postgres@", f"//{role}@")).open()


async def test_a_lost_lock_stops_everything_until_it_is_back(postgres: Postgres, schema: str, store: Store) -> None:
    row = await start(store)
    oid = (await postgres.fetch("SELECT oid::bigint FROM pg_namespace WHERE nspname = $1", schema))[0][0]
    query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = $1 AND objid::bigint = $2"
    ((pid,),) = await postgres.fetch(query, STORE, oid)
    stranger = await asyncpg.connect(postgres.url(schema), server_settings={"application_name": "mendflow elsewhere 7"})
    await stranger.execute("SELECT pg_terminate_backend($1)", pid)
    while not await stranger.fetchval("SELECT pg_try_advisory_lock($1, $2)", STORE, oid):
        await asyncio.sleep(0.001)
    # The words change when the server has noticed, and again when it has seen who has the lock now.
    said = ""
    while "mendflow elsewhere 7" not in said:
        try:
            await store.find(["order-1"])
        except StoreUnavailable as error:
            said = str(error)
        await asyncio.sleep(0.01)
    with pytest.raises(StoreUnavailable, match="mendflow elsewhere 7"):
        await commit(store, follow(row, b"three"))
    row.last_sequence = 2
    await stranger.close()
    assert await retried(lambda: store.find(["order-1"])) == {"order-1": row}
    await retried(lambda: commit(store, follow(row, b"three")))


async def test_a_store_without_its_database_says_what_to_do(postgres: Postgres) -> None:
    for url, error, says in [
        ("postgresql://user:secret@127.0.0.1:1/db", StoreUnavailable, "no database answers there; start PostgreSQL"),
        (f"postgresql://a:secret@127.0.0.1:{postgres.port}/none", StoreRefused, "grant|check the user"),
        (postgres.url(password="secret").replace("/postgres?", "/none?"), StoreRefused, "does not exist; create it"),
        (postgres.url("nowhere", password="secret"), StoreRefused, "no schema of the search_path exists"),
        ("postgresql://user:sec:re/t@host:port/db", StoreRefused, "cannot be read; use postgresql://USER"),
        ("postgresql://user:secret@no.such.host.invalid/db", StoreUnavailable, "cannot reach the database"),
    ]:
        store = open_store(url)
        with pytest.raises(error, match=says) as raised:
            await store.open()
        assert "\n" not in str(raised.value)
        assert "sec" not in str(raised.value).replace("one second", "")
        await store.close()


async def test_a_read_only_database_changes_nothing_and_is_left(postgres: Postgres, schema: str, store: Store) -> None:
    row = await start(store)
    await postgres.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        for (pid,) in await postgres.fetch(SESSIONS):
            await postgres.execute(f"SELECT pg_terminate_backend({pid})")
        while True:
            with pytest.raises((StoreUnavailable, CommitUnknown)) as raised:
                await commit(store, follow(row, b"three"))
            row.last_sequence = 2
            if "read-only" in str(raised.value):
                break
            await asyncio.sleep(0.01)
        assert isinstance(raised.value, StoreUnavailable)
        assert "use the primary" in str(raised.value)
    finally:
        await postgres.execute("SET default_transaction_read_only = off", "ALTER DATABASE postgres RESET ALL")
    await retried(lambda: commit(store, Change(row, Guard(1, 2), [])))


async def test_a_lost_connection_of_a_reader_is_replaced_unnoticed(postgres: Postgres, store: Store) -> None:
    row = await start(store)
    await asyncio.gather(*(store.find(["order-1"]) for _ in range(10)))
    readers = await postgres.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mendflow %' AND query LIKE '%ANY ($1::text[])%'"
    )
    assert readers
    for (pid,) in readers:
        await postgres.execute(f"SELECT pg_terminate_backend({pid})")
    assert await store.find(["order-1"]) == {"order-1": row}


async def test_a_serialization_failure_or_deadlock_is_repeated_inside(
    postgres: Postgres, schema: str, store: Store
) -> None:
    await postgres.execute(
        f"CREATE SEQUENCE {schema}.tries",
        f"""
        CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('{schema}.tries') < 3 THEN RAISE EXCEPTION 'try again' USING ERRCODE = '40P01'; END IF;
            RETURN NEW;
        END $$
        """,
        f"CREATE TRIGGER refuse BEFORE INSERT ON {schema}.events FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse()",
    )
    row = await start(store)
    assert (await store.load([row.key]))[0].events == [b"one", b"two"]


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("53100", StoreUnavailable, "disk of the database is full; free some space"),
        ("53300", StoreUnavailable, "too many connections"),
        ("57014", StoreUnavailable, "MENDFLOW_STORE_STATEMENT_TIMEOUT"),
        ("42501", StoreUnavailable, "grant it"),
        ("XX001", StoreDamaged, "restore a backup"),
    ],
)
async def test_an_error_of_the_database_changes_nothing_and_says_what_to_do(
    postgres: Postgres, schema: str, store: Store, state: str, error: type[Exception], says: str
) -> None:
    await postgres.execute(
        f"""
        CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$
        """,
        f"CREATE TRIGGER refuse BEFORE INSERT ON {schema}.events FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse()",
    )
    with pytest.raises(error, match=says):
        await start(store)
    assert bool(store.damage) == (error is StoreDamaged)
    await postgres.execute(f"DROP TRIGGER refuse ON {schema}.events")
    assert await store.find(["order-1"]) == {}
    await start(store)


async def test_the_database_restarts_between_commits(postgres: Postgres, store: Store) -> None:
    row = await start(store)
    await send(store, signal())
    await asyncio.to_thread(postgres.stop)
    with pytest.raises((StoreUnavailable, CommitUnknown)):
        await commit(store, follow(row, b"three"))
    row.last_sequence = 2
    with pytest.raises(StoreUnavailable):
        await store.find(["order-1"])
    await asyncio.to_thread(postgres.start)
    assert await retried(lambda: store.find(["order-1"])) == {"order-1": row}
    assert (await retried(lambda: commit(store, follow(row, b"three")))).changes == [CommitOutcome.COMMITTED]
    (loaded,) = await store.load([row.key])
    assert loaded.events == [b"one", b"two", b"three"]
    assert len(loaded.inbox) == 1


async def test_a_newer_schema_is_used_as_long_as_it_allows_and_refused_after(
    postgres: Postgres, schema: str, store: Store
) -> None:
    await start(store)
    await store.close()
    await postgres.execute(f"INSERT INTO {schema}.store_schema (number, oldest, version) VALUES (99, 1, '9.9.9')")
    again = open_store(postgres.url(schema))
    await again.open()
    assert set(await again.find(["order-1"])) == {"order-1"}
    await again.close()
    await postgres.execute(f"UPDATE {schema}.store_schema SET oldest = 98 WHERE number = 99")
    with pytest.raises(StoreRefused, match=r"newer version, Mendflow 9\.9\.9 .* install the newer version"):
        await open_store(postgres.url(schema)).open()


async def test_another_programs_schema_is_refused_and_left_alone(postgres: Postgres, schema: str) -> None:
    await postgres.execute(f"CREATE TABLE {schema}.events (id integer)")
    with pytest.raises(StoreRefused, match="another program's tables"):
        await open_store(postgres.url(schema)).open()
    found = await postgres.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    assert [name for (name,) in found] == ["events"]


async def test_a_migration_that_fails_changes_nothing(postgres: Postgres, schema: str) -> None:
    broken = [*migrate.migrations(), migrate.Migration("CREATE TABLE half (id integer); SELECT nothing", 1)]
    connection = await asyncpg.connect(postgres.url(schema))
    with pytest.raises(asyncpg.PostgresError):
        await migrate.prepare(connection, "here", broken)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = $1", schema) == 0
    await connection.close()


async def test_every_error_of_asyncpg_has_a_translation() -> None:
    kinds = [each for each in vars(asyncpg.exceptions).values() if isinstance(each, type)]
    raised = [each for each in kinds if issubclass(each, Exception)]
    assert len(raised) > 200
    for each in raised:
        assert issubclass(each, (*failures.FAILURES, Warning)), each


async def test_text_with_nul_is_stored_readably(store: Store) -> None:
    row = make_row(explanation="a\0b")
    assert (await commit(store, new(row, b"\0"))).changes == [CommitOutcome.COMMITTED]
    (loaded,) = await store.load([row.key])
    assert (loaded.row.explanation, loaded.events) == ("a\N{SYMBOL FOR NULL}b", [b"\0"])


async def test_many_batches_from_two_committers_do_not_wait_for_each_other_for_ever(store: Store) -> None:
    assert isinstance(store, PostgresStore)
    rows = [make_row(f"order-{number}") for number in range(40)]
    await store.commit(Batch([new(row, b"one") for row in rows]))
    forward = Batch([follow(row, b"two") for row in rows[:20]])
    backward = Batch([follow(row, b"two") for row in reversed(rows[20:])])
    results = await asyncio.gather(store.commit(forward), store.commit(backward))
    assert all(outcome is CommitOutcome.COMMITTED for result in results for outcome in result.changes)
