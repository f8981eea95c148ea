"""A server on a database that refuses, fails over or changes its password: not ready, nothing lost or done twice."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import pytest

from mendflow import Client
from mendflow.errors import WorkflowNotFound
from tests.crash.test_postgres import refused
from tests.store.test_postgres_failover import synchronous, url_of
from tests.support.postgres import Postgres, postgres_server
from tests.support.servers import ServerProcess, serving_process, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

pytestmark = pytest.mark.proof

SECRET = "only-the-database-may-know"
NEW_SECRET = "only-the-database-may-know-this-too"
QUICK = {
    "MENDFLOW_COMMIT_AGE_LIMIT": "1",
    "MENDFLOW_PROBE_INTERVAL": "0.2",
    "MENDFLOW_GOOD_PROBES": "1",
    "MENDFLOW_STORE_CONNECT_TIMEOUT": "2",
    "MENDFLOW_STORE_STATEMENT_TIMEOUT": "1",
}
NAMES = [f"order{number}" for number in range(8)]
SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'mendflow %'"


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A database of its own, whose role `app` is no superuser and needs a password over TCP."""
    with postgres_server(fsync=True, access=["host all all 127.0.0.1/32 scram-sha-256"]) as server:
        asyncio.run(
            server.execute(
                f"CREATE ROLE app LOGIN PASSWORD '{SECRET}'",
                "CREATE SCHEMA app AUTHORIZATION app",
                "ALTER ROLE app SET search_path = app",
            )
        )
        yield server


def url_of_app(database: Postgres) -> str:
    return f"postgresql://app@127.0.0.1:{database.port}/postgres"


async def health(server: ServerProcess, code: int, says: str = "") -> None:
    """Wait for a status of the health, with these words among its reasons."""

    def is_so() -> bool:
        status, body = server.health()
        return status == code and says in "\n".join(body.get("reasons", []))

    assert await until(is_so, 40.0), server.health()


@contextlib.asynccontextmanager
async def too_many_clients(database: Postgres) -> AsyncIterator[None]:
    await database.execute("ALTER ROLE app CONNECTION LIMIT 0", SESSIONS)
    yield
    await database.execute("ALTER ROLE app CONNECTION LIMIT -1")


@contextlib.asynccontextmanager
async def read_only(database: Postgres) -> AsyncIterator[None]:
    await database.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    yield
    await database.execute(
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )


@contextlib.asynccontextmanager
async def a_stranger_holds_a_lock(database: Postgres) -> AsyncIterator[None]:
    stranger = await asyncpg.connect(database.url())
    transaction = stranger.transaction()
    await transaction.start()
    await stranger.execute("LOCK TABLE app.events IN SHARE MODE")
    yield
    await transaction.rollback()
    await stranger.close()


@contextlib.asynccontextmanager
async def another_password(database: Postgres) -> AsyncIterator[None]:
    await database.execute(f"ALTER ROLE app PASSWORD '{NEW_SECRET}'", SESSIONS)
    yield
    await database.execute(f"ALTER ROLE app PASSWORD '{SECRET}'")


@contextlib.asynccontextmanager
async def no_schema(database: Postgres) -> AsyncIterator[None]:
    await database.execute("REVOKE ALL ON SCHEMA app FROM app", "ALTER SCHEMA app OWNER TO postgres", SESSIONS)
    yield
    await database.execute("ALTER SCHEMA app OWNER TO app", "GRANT ALL ON SCHEMA app TO app")


class Trouble(NamedTuple):
    """What happens to a database, and what the health says of it."""

    happens: Callable[[Postgres], AbstractAsyncContextManager[None]]
    says: str


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(too_many_clients, "CONNECTION LIMIT of the role"),
        Trouble(read_only, "read-only, as a standby is; use the primary"),
        Trouble(a_stranger_holds_a_lock, "find what blocks it in pg_stat_activity"),
        Trouble(another_password, "PostgreSQL refused the password"),
        Trouble(no_schema, "no schema of the search_path exists"),
    ],
    ids=lambda trouble: trouble.happens.__name__,
)
async def test_a_trouble_of_the_database_loses_and_repeats_nothing(
    database: Postgres, tmp_path: Path, trouble: Trouble
) -> None:
    environment = {**QUICK, "PGPASSWORD": SECRET}
    with serving_process(tmp_path, url=url_of_app(database), environment=environment) as server:
        async with Client(server.grpc_address) as client:
            for name in NAMES:
                await client.start("everything", name, id=name)
            async with trouble.happens(database):
                signals = [asyncio.create_task(client.handle(name).signal("go", "now")) for name in NAMES[:3]]
                await health(server, 503, trouble.says)
                assert server.health("/health/live")[0] == 200
            await health(server, 200)
            await finished(client, signals)
        assert server.terminate() == 0
    await once(database, server, "app")
    assert SECRET not in (tmp_path / "server.log").read_text(encoding="utf-8")


async def finished(client: Client, signals: list[asyncio.Task[Any]]) -> None:
    """Give every workflow its signal, and wait for its end."""
    await asyncio.gather(*signals)
    for name in NAMES[len(signals) :]:
        await client.handle(name).signal("go", "now")
    for name in NAMES:
        assert (await asyncio.wait_for(client.handle(name).result(), 60))[-1].endswith("3]")


async def once(database: Postgres, server: ServerProcess, schema: str) -> None:
    """Check that each workflow has ended, each event is there once, and each step ran once."""
    await whole(database, schema, len(NAMES))
    notes = [line.rsplit(" ", 1)[-1] for line in server.journal if line.startswith("note_down ")]
    assert len(notes) == len(set(notes))
    assert {f"{name}-{part}" for name in NAMES for part in "ab"} <= set(notes)


async def whole(database: Postgres, schema: str, number: int) -> None:
    """Check that so many workflows have succeeded, and that each event is there once."""
    found = await database.fetch(f"SELECT state, count(*) FROM {schema}.workflows GROUP BY state")
    assert [tuple(row) for row in found] == [(7, number)]
    assert not await database.fetch(
        f"SELECT key FROM {schema}.workflows AS w WHERE last_sequence <> "
        f"(SELECT count(*) FROM {schema}.events AS e WHERE e.key = w.key)"
    )
    assert not await database.fetch(f"SELECT id FROM {schema}.inbox")


async def test_a_server_follows_the_primary_and_loses_nothing(tmp_path: Path) -> None:
    with postgres_server(fsync=True) as primary, postgres_server(fsync=True, standby_of=primary) as standby:
        await synchronous(primary)
        url = url_of(primary.port, standby.port)
        with serving_process(tmp_path, url=url, environment=QUICK) as server:
            async with Client(server.grpc_address) as client:
                for name in NAMES:
                    await client.start("everything", name, id=name)
                await asyncio.to_thread(primary.stop, "immediate")
                signals = [asyncio.create_task(client.handle(name).signal("go", "now")) for name in NAMES[:3]]
                await health(server, 503, "no host of the store's URL that answers can be written")
                await asyncio.to_thread(standby.promote)
                await health(server, 200)
                await finished(client, signals)
            assert server.terminate() == 0
        await once(standby, server, "public")


async def test_without_a_synchronous_standby_the_server_continues_from_what_the_standby_has(tmp_path: Path) -> None:
    with postgres_server(fsync=True) as primary, postgres_server(fsync=True, standby_of=primary) as standby:
        url = url_of(primary.port, standby.port)
        with serving_process(tmp_path, url=url, environment=QUICK) as server:
            async with Client(server.grpc_address) as client:
                await client.start("everything", "kept", id="kept")
                while not await standby.fetch("SELECT 1 FROM workflows"):
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(standby.stop, "fast")
                await client.handle("kept").signal("go", "now")
                first = await asyncio.wait_for(client.handle("kept").result(), 60)
                await client.start("everything", "lost", id="lost")
                await asyncio.to_thread(primary.stop, "immediate")
                await health(server, 503)
                await asyncio.to_thread(standby.start)
                await asyncio.to_thread(standby.promote)
                await health(server, 200)
                # What only the old primary had is gone: an end, a signal, a workflow. Each can be done again.
                with pytest.raises(WorkflowNotFound):
                    await client.get("lost")
                for name in ("kept", "lost"):
                    await client.start("everything", name, id=name)
                    await client.handle(name).signal("go", "now")
                    seen = await asyncio.wait_for(client.handle(name).result(), 60)
                    assert seen[-3:] == ["withdrawn", name, "[3]"]
                assert first[-3:] == ["withdrawn", "kept", "[3]"]
            assert server.terminate() == 0
        await whole(standby, "public", 2)


async def test_a_rotated_password_and_a_number_of_connections(database: Postgres, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    environment = {
        **QUICK,
        "MENDFLOW_STORE_PASSWORD_FILE": path.name,  # Relative to the working directory of the start.
        "MENDFLOW_STORE_READING_CONNECTIONS": "2",
        "MENDFLOW_LOG_LEVEL": "debug",
    }
    seen: list[str] = []
    with serving_process(tmp_path, url=url_of_app(database), environment=environment) as server:
        assert server.process is not None
        async with Client(server.grpc_address) as client:
            await database.execute(f"ALTER ROLE app PASSWORD '{NEW_SECRET}'", SESSIONS)
            await health(server, 503, "PostgreSQL refused the password")
            seen += [str(server.health()), str(await client.server_info())]
            path.write_text(NEW_SECRET, encoding="utf-8")
            await health(server, 200)
            for name in NAMES:
                await client.start("everything", name, id=name)
            await finished(client, [])
            while (count := await connections(database)) != 5:  # The one for notices takes a second.
                assert count < 5
                await asyncio.gather(*(listed(client) for _ in range(50)))
            seen += [str(server.health()), str(await client.server_info())]
        seen.append(title_of(server.process.pid))
        assert server.terminate() == 0
    seen.append((tmp_path / "server.log").read_text(encoding="utf-8"))
    assert not [text for text in seen if SECRET in text]
    await once(database, server, "app")


async def connections(database: Postgres) -> int:
    """Return how many connections the role `app` has."""
    ((count,),) = await database.fetch("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
    return int(count)


async def listed(client: Client) -> int:
    """Return how many workflows a list has, which the server reads from the store."""
    return len([each async for each in client.list()])


def title_of(pid: int) -> str:
    """Return the command line of a process, as other users see it."""
    return subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


def test_a_start_without_a_connection_left_or_a_password_says_what_to_do(database: Postgres, tmp_path: Path) -> None:
    asyncio.run(database.execute("ALTER ROLE app CONNECTION LIMIT 0"))
    url = url_of_app(database).replace("//app@", f"//app:{SECRET}@")
    assert "raise max_connections or the CONNECTION LIMIT" in refused(tmp_path, url)
    assert "MENDFLOW_STORE_PASSWORD_FILE, PGPASSWORD or PGPASSFILE" in refused(tmp_path, url_of_app(database))
