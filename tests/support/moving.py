"""Stores to move from SQLite to PostgreSQL, and the command that moves them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

from mendflow_server.store.factory import open_store
from mendflow_server.store.moving.tables import TABLES
from mendflow_server.store.records import Alert, Heartbeat, Life, Suspect
from tests.store.builders import PAUSED, WAITING, everything, follow, send, start
from tests.store.builders import commit as commit_changes
from tests.store.builders import signal as message
from tests.support.command_line import as_text, run_command
from tests.support.command_process import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from tests.support.postgres import Postgres


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def migrate(source: str, target: str, *options: str) -> subprocess.CompletedProcess[str]:
    return as_text(run_command(["migrate", *options, source, target], {}))


def with_store(url: str, work: Callable[[Store], Awaitable[Any]]) -> Any:
    """Return what the work on a store returns."""

    async def run() -> Any:
        store = open_store(url)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def fill(store: Store) -> None:
    """Put rows into every table, with every kind of value."""
    await everything(store, "order-1")
    for number in range(2):  # Purged: the first leaves something in the other tables.
        await everything(store, f"gone-{number}")
        await store.purge(f"gone-{number}")
    await store.set_held("order-1", held=True)
    words = "an \0 odd ü 文 \N{SYMBOL FOR NULL} text"
    row = await start(store, "open-ü", labels={"team": "b", "Ä": "文"}, explanation=words, create_time=2**53)
    await send(store, message("open-ü", "r1"), message("open-ü", "", b"\0\xff"), message("open-ü", "r3"))
    beats = (Heartbeat("charge", 3, b"\0half"),)
    alerts = (Alert(5, "history_near_limit", 2, words),)
    await commit_changes(store, follow(row, b"", b"\0\xff", heartbeats=beats, alerts=alerts))
    waiting = {"state": WAITING, "wake_time": 7_000, "reason": 3, "untaken_signals": 2}
    await commit_changes(store, follow(row, b"last", fields=waiting))
    await start(store, "paused", state=PAUSED, reason=5)
    await store.write_suspects(
        [Suspect(row.key, "charge", 2, 1, held=True), Suspect(row.key, "ship", 0, 0, held=False)]
    )
    await store.begin_life(Life("host-1", 1_000, 2_000, drained=False))
    await store.beat("host-1", 3_000, drained=True)
    await store.begin_life(Life("host-2", 4_000, 5_000, drained=False))


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of every table of a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in TABLES}


def fetch(postgres: Postgres, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in asyncio.run(postgres.fetch(query))]


def is_untouched(postgres: Postgres, schema: str) -> bool:
    """Return whether a schema has no table."""
    return not fetch(postgres, f"SELECT 1 FROM pg_tables WHERE schemaname = '{schema}'")


def fill_up(path: Path, *, workflows: int, events: int, size: int) -> None:
    """Add workflows to a file, faster than a server would."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (first,) = connection.execute("SELECT max(key) + 1 FROM workflows").fetchone()
        columns = ", ".join(row[1] for row in connection.execute("PRAGMA table_info(workflows)"))
        values = re.sub(r"\bkey\b", "?", columns, count=1)
        values = re.sub(r"\bworkflow_id\b", "'many-' || ?", re.sub(r"\blast_sequence\b", "?", values))
        keys = range(first, first + workflows)
        connection.executemany(
            f"INSERT INTO workflows ({columns}) SELECT {values} FROM workflows WHERE workflow_id = 'order-1'",
            [(key, key, events) for key in keys],
        )
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, randomblob(?))",
            ((key, sequence, size) for key in keys for sequence in range(1, events + 1)),
        )
        connection.commit()


def begin(source: Path, target: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "migrate", url_of(source), target],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def prepare(postgres: Postgres, schema: str, trigger: str, action: str) -> None:
    """Make the tables of a store, and let the database do something when a row is written."""

    async def nothing(_: Store) -> None:
        pass

    with_store(postgres.url(schema), nothing)
    asyncio.run(
        postgres.execute(
            f"SET search_path = {schema}; "
            f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {action}; RETURN NEW; END $$; "
            f"CREATE {trigger} FOR EACH ROW EXECUTE FUNCTION act()"
        )
    )


def is_empty(postgres: Postgres, schema: str) -> bool:
    """Return whether no table of a schema has a row."""
    return all(fetch(postgres, f"SELECT count(*) FROM {schema}.{name}") == [(0,)] for name in TABLES)
