"""Recognise Mendflow's schemas and migrate them, forward only.

A migration expands the schema first; what it replaces goes one release later. So each schema names the oldest
migration that a server must know to run on it, and servers of two neighbouring versions run on one schema.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from mendflow_server.runtime.version import VERSION
from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.postgres.membership import MIGRATION
from mendflow_server.store.sql_files import read_migrations

if TYPE_CHECKING:
    from mendflow_server.store.postgres.connection import Connection

_OLDEST_POSTGRES: Final = 14
#: The longest that a migration may take, in seconds: it may build an index over all workflows.
_PATIENCE: Final = 24 * 3600.0
_OLDEST: Final = re.compile(r"\boldest: (\d+)")
_TABLE: Final = """
CREATE TABLE store_schema (
    number integer PRIMARY KEY,
    oldest integer NOT NULL,
    version text NOT NULL,
    applied timestamptz NOT NULL DEFAULT now()
)
"""
_EXISTS: Final = "SELECT to_regclass(quote_ident(current_schema()) || '.' || $1) IS NOT NULL"


class Migration(NamedTuple):
    """A script, and the number of the newest migration that a server must know to run on the schema after it."""

    script: str
    oldest: int


def migrations() -> list[Migration]:
    """Return the migrations in order. The first one is number 1."""
    found = []
    for name, script in read_migrations(__package__).items():
        oldest = _OLDEST.search(script)
        if oldest is None:
            message = f"{name} does not say `oldest: NUMBER`"
            raise ValueError(message)
        found.append(Migration(script, int(oldest[1])))
    return found


async def prepare(connection: Connection, place: str, known: list[Migration] | None = None) -> None:
    """Migrate the schema, or raise `StoreRefused` and leave it unchanged. ``known`` are the migrations."""
    known = migrations() if known is None else known
    release = connection.get_server_version()
    if release.major < _OLDEST_POSTGRES:
        message = f"store {place}: PostgreSQL {release.major} is too old; use PostgreSQL {_OLDEST_POSTGRES} or newer"
        raise StoreRefused(message)
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        # Several replicas may start at once.
        await connection.execute(
            "SELECT pg_advisory_xact_lock($1, hashtext(current_schema()))", MIGRATION, timeout=_PATIENCE
        )
        number = await _number(connection, place, len(known))
        for index, migration in enumerate(known[number:], start=number + 1):
            await connection.execute(migration.script, timeout=_PATIENCE)
            await connection.execute(
                "INSERT INTO store_schema (number, oldest, version) VALUES ($1, $2, $3)",
                index,
                migration.oldest,
                VERSION,
            )


async def _number(connection: Connection, place: str, newest: int) -> int:
    """Return the number of the schema's newest migration, at most ``newest``; 0 for an empty schema."""
    if not await connection.fetchval(_EXISTS, "store_schema"):
        if await connection.fetchval(_EXISTS, "workflows") or await connection.fetchval(_EXISTS, "events"):
            message = f"store {place}: the schema has another program's tables; use another schema or database"
            raise StoreRefused(message)
        await connection.execute(_TABLE)
        return 0
    row = await connection.fetchrow("SELECT number, oldest, version FROM store_schema ORDER BY number DESC LIMIT 1")
    if row is None:
        return 0
    if row["oldest"] > newest:
        message = (
            f"store {place} was written by a newer version, Mendflow {row['version']} (schema {row['number']}, for "
            f"servers that know schema {row['oldest']}; this version knows schema {newest}); install the newer "
            "version, or use another database"
        )
        raise StoreRefused(message)
    return min(int(row["number"]), newest)
