"""The PostgreSQL schema that a store is moved to, in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.errors import CommitUnknown, StoreError, StoreRefused
from mendflow_server.store.moving.tables import NOT_WORK, NUMBERED, TABLES
from mendflow_server.store.postgres import failures, migrate
from mendflow_server.store.postgres.connection import Connector, drop
from mendflow_server.store.postgres.failures import FAILURES
from mendflow_server.store.postgres.marker import CrashMarkers
from mendflow_server.store.postgres.membership import Membership

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from mendflow_server.store.access import DatabaseAccess
    from mendflow_server.store.moving.tables import Table
    from mendflow_server.store.postgres.connection import Connection

#: The longest that one portion may take, in seconds. The database may have to write much before it takes more.
_PATIENCE: Final = 600.0
#: The time limits of a database that would end a long transaction, or one that waits for a slow disk on this side.
_NO_LIMITS: Final = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
"""


@contextlib.asynccontextmanager
async def opened_target(url: str, access: DatabaseAccess) -> AsyncIterator[Target]:
    """Yield the schema at a URL, which is empty and no server can open meanwhile.

    All that is done to it is one transaction, which is committed at the end, or leaves the schema as it was. Raise
    `StoreRefused` if the schema cannot be used, and `StoreError` if the database fails.
    """
    connector = Connector(url, access)
    membership = Membership(connector)
    try:
        connection = await membership.join(alone=True)
        try:
            await connection.execute(_NO_LIMITS)
            await connection.transaction().start()
            await migrate.prepare(connection, connector.place)
            await _empty(connection, connector.place)
        except FAILURES as error:
            raise failures.translate_at_open(error, connector.place) from error
        try:
            yield Target(connection, connector.place)
        except BaseException:
            # The database rolls back. It may be in the middle of a statement, so there is no use in asking it to.
            drop(connection)
            raise
        try:
            await _commit(connection)
        except FAILURES as error:
            raise _unknown(failures.translate(error, connector.place)) from error
    finally:
        await membership.leave()


async def _empty(connection: Connection, place: str) -> None:
    """Lock the tables and raise `StoreRefused` if one has rows. Give each an empty file of its own.

    PostgreSQL removes these files, and what was written to them, if the transaction does not commit.
    """
    tables = ", ".join(TABLES)
    # Another transaction, such as a dump, may have a lock on them.
    await connection.execute("SET LOCAL lock_timeout = '5s'")
    await connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
    used = [name for name in TABLES if name not in NOT_WORK and await _has_rows(connection, name)]
    if used:
        message = (
            f"store {place} is not empty: there are rows in {', '.join(used)}; nothing was moved; "
            "use an empty database or schema"
        )
        raise StoreRefused(message)
    await connection.execute(f"TRUNCATE {tables}")


async def _has_rows(connection: Connection, table: str) -> bool:
    # The names are those of `TABLES`.
    return bool(await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"))  # noqa: S608 - as above


async def _commit(connection: Connection) -> None:
    """Commit. A cancellation does not disturb that, because its outcome would be unknown."""
    commit = asyncio.ensure_future(connection.execute("COMMIT", timeout=_PATIENCE))
    while not commit.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([commit])
    commit.result()


def _unknown(error: StoreError) -> StoreError:
    if not isinstance(error, CommitUnknown):
        return error
    message = (
        f"{error}; run the command again: it moves the store, or says that the schema is not empty, and then this "
        "move is complete"
    )
    return CommitUnknown(message)


class Target:
    """A schema in the transaction of a move."""

    def __init__(self, connection: Connection, place: str) -> None:
        self._connection = connection
        #: The database as messages name it: the URL without its password.
        self.place = place

    async def copy(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows to a table."""
        try:
            await self._connection.copy_records_to_table(
                table.name, records=rows, columns=table.columns, timeout=_PATIENCE
            )
        except FAILURES as error:
            if failures.by_caller(error):
                raise self._not_taken(table, error) from error
            raise failures.unavailable(error, self.place) from error
        except (OverflowError, TypeError, ValueError) as error:  # asyncpg cannot encode a value.
            raise self._not_taken(table, error) from error

    async def finish(self, next_numbers: Mapping[str, int]) -> None:
        """Set the sequences, and let the database look at what the tables hold, so that its plans fit."""
        with self._translated():
            for name, number in next_numbers.items():
                # Unlike setval, this is undone with the transaction.
                await self._connection.execute(f"ALTER {NUMBERED[name]} RESTART WITH {number:d}")
            await self._connection.execute(f"ANALYZE {', '.join(TABLES)}", timeout=_PATIENCE)

    async def read(self, table: Table) -> Callable[[int], Any]:
        """Return a function that reads the next rows of a table from the database, in the order of its key."""
        with self._translated():
            cursor = await self._connection.cursor(table.query(table.columns))

        async def rows(count: int) -> list[tuple[Any, ...]]:
            with self._translated():
                return [tuple(record) for record in await cursor.fetch(count, timeout=_PATIENCE)]

        return rows

    def _not_taken(self, table: Table, error: Exception) -> StoreError:
        message = (
            f"store {self.place} does not take a row of {table.name}: {error}; nothing was moved; if the file is "
            "damaged, restore a backup, and move that"
        )
        return StoreError(message)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise failures.unavailable(error, self.place) from error


def carry_crash_marker(place: str, number: int, marker: bytes) -> None:
    """Put the crash marker of the last life, which has this number, where a replica on this machine looks for it.

    Without it that replica knows what was in flight at the last crash, but not what executed.
    """
    markers = CrashMarkers(place)
    markers.open({number})
    markers.remove(number)
    path = markers.path(number)
    if path is not None and marker:
        with contextlib.suppress(OSError):
            path.write_bytes(marker)
