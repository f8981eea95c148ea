"""The locks of the server that owns the store. PostgreSQL releases them when the server or its connection ends.

There are two session advisory locks, both on the schema. The server holds the first on a connection of its own: that
makes it the owner. The session that writes holds the second. So the owner can check whether the backend of an
earlier commit has ended: its lock is free. The owner ends a backend that still has it, of this process or of an
earlier one.

A new server has both locks before its recovery reads anything. So one that has lost the first and has not noticed yet
can no longer commit.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.store.errors import StoreError, StoreRefused, StoreUnavailable
from mendflow_server.store.postgres import failures
from mendflow_server.store.postgres.connection import close, drop
from mendflow_server.store.postgres.failures import FAILURES
from mendflow_server.store.postgres.queries import QUERIES

if TYPE_CHECKING:
    from mendflow_server.store.postgres.connection import Connection, Connector

log = structlog.get_logger("mendflow.store")

#: The first numbers of the locks; the second is the schema's. "MFLW" is the owner's.
OWNER: Final = 0x4D464C57
WRITER: Final = OWNER + 1
MIGRATION: Final = OWNER + 2

#: How long a start waits for the lock. The backend of a killed server needs a moment to notice.
_PATIENCE: Final = 1.5
#: The pause between two tries of a lock, in seconds.
_LOOK: Final = 0.05
#: The pause before the server tries again to get a lost lock back, in seconds.
_RETRY: Final = 0.25
#: The pause between two checks of the connection that holds the lock, in seconds.
_PING: Final = 5.0
#: How long the writer waits for the end of an earlier backend, in seconds.
_END_TIMEOUT: Final = 5.0

_SCHEMA: Final = "SELECT oid::bigint FROM pg_namespace WHERE nspname = current_schema()"
_TRY: Final = "SELECT pg_try_advisory_lock($1, $2)"
_HOLDER: Final = """
SELECT locks.pid, activity.application_name, host(activity.client_addr) AS address
FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 2
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND locks.classid::bigint = $1 AND locks.objid::bigint = $2
"""


class Ownership:
    """The lock of the server that owns the store, and the task that gets it back when its connection is lost."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: Connection | None = None
        self._schema = 0
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        #: The replica id of this process, once its life is recorded.
        self.replica_id = ""
        #: Why the store cannot be used; empty while this server owns it.
        self.failure = ""

    def check(self) -> None:
        """Raise `StoreUnavailable` unless this server owns the store."""
        if self.failure:
            raise StoreUnavailable(self.failure)

    async def take(self) -> Connection:
        """Become the owner. Return the lock's connection, on which the schema may be migrated now.

        Raise `StoreRefused` if another server is the owner. The caller calls `release` also after an error.
        """
        try:
            self._connection = await self._connector.connect()
            holder = await self._try(self._connection, _PATIENCE)
        except FAILURES as error:
            raise failures.translate_at_open(error, self._connector.place) from error
        if holder:
            raise StoreRefused(self._in_use(holder))
        self._watch(self._connection)
        return self._connection

    def keep(self) -> None:
        """Begin to keep the lock."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def release(self) -> None:
        """Release the lock. May be called twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        connection, self._connection = self._connection, None
        await close(connection)

    async def take_writer(self, connection: Connection) -> None:
        """Take the writer's lock for this connection, and end the backend that still has it.

        Only the owner may do that, and PostgreSQL says who that is. Raise `StoreUnavailable` if the backend does not
        end.
        """
        owner = self._connection
        held = [pid for pid, *_ in await connection.fetch(_HOLDER, OWNER, self._schema)]
        if owner is None or owner.is_closed() or held != [owner.get_server_pid()]:
            message = f"store {self._connector.place}: this server has lost the store's lock and tries to get it back"
            raise StoreUnavailable(message)
        limit = time.monotonic() + _END_TIMEOUT
        while not await connection.fetchval(_TRY, WRITER, _signed(self._schema)):
            if time.monotonic() > limit:
                message = (
                    f"store {self._connector.place}: the database does not end the connection of an earlier commit; "
                    f"see pg_locks for the advisory lock ({WRITER}, {self._schema})"
                )
                raise StoreUnavailable(message)
            for pid, *_ in await connection.fetch(_HOLDER, WRITER, self._schema):
                log.warning("earlier_backend_ended", backend=pid)
                await connection.execute("SELECT pg_terminate_backend($1)", pid)
            await asyncio.sleep(_LOOK)

    async def _try(self, connection: Connection, patience: float) -> str:
        """Try to get the lock; return who has it, or an empty text."""
        schema = await connection.fetchval(_SCHEMA)
        if schema is None:
            message = (
                f"store {self._connector.place}: no schema of the search_path exists; create it, or correct "
                "search_path in the store's URL"
            )
            raise StoreRefused(message)
        self._schema = schema
        limit = time.monotonic() + patience
        while not await connection.fetchval(_TRY, OWNER, _signed(schema)):
            if time.monotonic() > limit:
                found = await connection.fetchrow(_HOLDER, OWNER, schema)
                if found is None:
                    return "a session that has just ended or is not visible"
                pid, name, address = found
                return f"{name or 'a server'} at {address or 'a local socket'}, backend {pid}"
            await asyncio.sleep(_LOOK)
        return ""

    def _in_use(self, holder: str) -> str:
        return (
            f"{self._connector.place} is in use by another server ({holder}); stop that server, or use another "
            "database or schema"
        )

    def _watch(self, connection: Connection) -> None:
        self._lost.clear()
        connection.add_termination_listener(self._note_loss)

    def _note_loss(self, connection: Connection) -> None:
        if connection is self._connection and not self.failure:
            self.failure = (
                f"store {self._connector.place}: the connection that holds the store's lock was lost; this server "
                "continues when the database answers and the lock is free"
            )
            self._lost.set()

    async def _keep(self) -> None:
        """Check the connection regularly, and get the lock back when it is lost."""
        while True:
            try:
                await asyncio.wait_for(self._lost.wait(), _PING)
            except TimeoutError:
                await self._ping()
                continue
            log.error("store_lock_lost", error=self.failure)
            while not await self._regain():  # noqa: ASYNC110 - the database notifies of nothing
                await asyncio.sleep(_RETRY)
            log.info("store_lock_regained")

    async def _ping(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await connection.execute("SELECT 1", timeout=_PING)
        except FAILURES:
            self._note_loss(connection)
            drop(connection)

    async def _regain(self) -> bool:
        connection = None
        try:
            connection = await self._connector.connect()
            holder = await self._try(connection, 0)
            newest = "" if holder else await connection.fetchval(QUERIES["newest_life"], "")
        except FAILURES as error:
            self.failure = failures.explain(error, self._connector.place)
        except StoreError as error:
            self.failure = str(error)
        else:
            if holder:
                self.failure = self._in_use(holder)
            elif self.replica_id and newest != self.replica_id:
                self.failure = (
                    f"store {self._connector.place}: another server ({newest}) has used the store since this one lost "
                    "its lock; restart this server"
                )
            elif not connection.is_closed():
                self._connection = connection
                self._watch(connection)
                self.failure = ""
                return True
        await close(connection)
        return False


def _signed(number: int) -> int:
    """Return an object id as the lock functions take it: PostgreSQL's integers are signed."""
    return number - 2**32 if number >= 2**31 else number
