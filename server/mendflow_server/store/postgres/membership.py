"""The locks of a replica. PostgreSQL releases them when the process or its connection ends.

All are session advisory locks. Each replica holds three:

- the store's lock, on the schema, shared with the other replicas. What needs the store for itself, such as a server of
  a version without replicas, holds it exclusively;
- its own lock, on the schema and its number in ``replicas``. While it is held, the replica lives;
- the lock of its session that writes. So it can check whether the backend of an earlier commit of its own has ended:
  then that lock is free. It ends a backend that still has it.

The first two are on a connection of their own, so that a long commit does not look like the end of a replica.
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

if TYPE_CHECKING:
    from mendflow_server.store.postgres.connection import Connection, Connector

log = structlog.get_logger("mendflow.store")

#: The first number of the store's lock, "MFLW"; the second is the schema's. A migration has a lock of its own.
STORE: Final = 0x4D464C57
MIGRATION: Final = STORE + 2
#: What the number of a replica is raised by for the lock of its session that writes.
WRITER: Final = 2**31

#: How long a start waits for the store's lock. The backend of a killed server needs a moment to notice.
_PATIENCE: Final = 1.5
#: The pause between two tries of a lock, in seconds.
_LOOK: Final = 0.05
#: The pause before the server tries again to get its lost locks back, in seconds.
_RETRY: Final = 0.25
#: The pause between two checks of the connection that holds the locks, in seconds.
_PING: Final = 5.0
#: How long a session waits for the end of an earlier backend of this replica, in seconds.
_END_TIMEOUT: Final = 5.0

_SCHEMA: Final = "SELECT oid::bigint FROM pg_namespace WHERE nspname = current_schema()"
_NUMBER: Final = "SELECT nextval(pg_get_serial_sequence('replicas', 'id'))"
_TRY_ALONE: Final = "SELECT pg_try_advisory_lock($1, $2)"
_TRY_STORE: Final = "SELECT pg_try_advisory_lock_shared($1, $2)"
_TRY: Final = "SELECT pg_try_advisory_lock($1)"
_HOLDER: Final = """
SELECT locks.pid, activity.application_name, host(activity.client_addr) AS address
FROM pg_locks AS locks LEFT JOIN pg_stat_activity AS activity ON activity.pid = locks.pid
WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = $3
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND locks.classid::bigint = $1 AND locks.objid::bigint = $2
"""


class Membership:
    """The locks of this replica, and the task that gets them back when their connection is lost."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        #: The number of the schema.
        self.schema = 0
        #: The number of this replica in ``replicas``; 0 while it has none.
        self.number = 0
        #: The first number of this process, which the lock of its session that writes keeps.
        self.writer = 0
        #: Why the store cannot be used; empty while this replica has its locks.
        self.failure = ""
        #: When the locks were last got back, in monotonic seconds. A restart of the database frees those of everyone.
        self.since = float("-inf")

    def check(self) -> None:
        """Raise `StoreUnavailable` unless this replica has its locks."""
        if self.failure:
            raise StoreUnavailable(self.failure)

    async def join(self, *, alone: bool = False) -> Connection:
        """Take the store's lock, for this process ``alone`` or shared with other replicas.

        Return its connection, on which the schema may be migrated now. Raise `StoreRefused` if another process is in
        the way. The caller calls `leave` also after an error.
        """
        try:
            self._connection = await self._connector.connect()
            holder = await self._try_store(self._connection, _PATIENCE, _TRY_ALONE if alone else _TRY_STORE)
        except FAILURES as error:
            raise failures.translate_at_open(error, self._connector.place) from error
        if holder:
            raise StoreRefused(self._in_use(holder))
        self._watch(self._connection)
        return self._connection

    async def take_number(self) -> None:
        """Become a replica with a number and a lock of its own, also when this one has had another before."""
        connection = self._connection
        if connection is None or connection.is_closed():
            message = f"store {self._connector.place}: the connection that holds this server's locks was lost"
            raise StoreUnavailable(message)
        try:
            number: int = await connection.fetchval(_NUMBER)
            await self._take(connection, number)
        except FAILURES as error:
            raise failures.unavailable(error, self._connector.place) from error
        self.number = number
        self.writer = self.writer or number

    def keep(self) -> None:
        """Begin to keep the locks."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def leave(self) -> None:
        """Release the locks. May be called twice."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        connection, self._connection = self._connection, None
        await close(connection)

    async def take_writer(self, connection: Connection) -> None:
        """Take the writer's lock for this connection, and end the backend that still has it.

        Raise `StoreUnavailable` if the backend does not end.
        """
        await self._take(connection, self.writer + WRITER)

    async def _take(self, connection: Connection, number: int) -> None:
        """Take a lock that only this replica takes, and end its earlier backend that still has it."""
        limit = time.monotonic() + _END_TIMEOUT
        while not await connection.fetchval(_TRY, _key(self.schema, number)):
            if time.monotonic() > limit:
                message = (
                    f"store {self._connector.place}: the database does not end an earlier connection of this server; "
                    f"see pg_locks for the advisory lock ({self.schema}, {number})"
                )
                raise StoreUnavailable(message)
            for pid, *_ in await connection.fetch(_HOLDER, self.schema, number, 1):
                log.warning("earlier_backend_ended", backend=pid)
                await connection.execute("SELECT pg_terminate_backend($1)", pid)
            await asyncio.sleep(_LOOK)

    async def _try_store(self, connection: Connection, patience: float, attempt: str) -> str:
        """Try to get the store's lock; return who has it for itself, or an empty text."""
        schema = await connection.fetchval(_SCHEMA)
        if schema is None:
            message = (
                f"store {self._connector.place}: no schema of the search_path exists; create it, or correct "
                "search_path in the store's URL"
            )
            raise StoreRefused(message)
        self.schema = schema
        limit = time.monotonic() + patience
        while not await connection.fetchval(attempt, STORE, _signed(schema, 32)):
            if time.monotonic() > limit:
                found = await connection.fetchrow(_HOLDER, STORE, schema, 2)
                if found is None:
                    return "a session that has just ended or is not visible"
                pid, name, address = found
                return f"{name or 'a server'} at {address or 'a local socket'}, backend {pid}"
            await asyncio.sleep(_LOOK)
        return ""

    def _in_use(self, holder: str) -> str:
        return (
            f"{self._connector.place} is in use by {holder}, and one of both needs it for itself; stop that program, "
            "or use another database or schema"
        )

    def _watch(self, connection: Connection) -> None:
        self._lost.clear()
        connection.add_termination_listener(self._note_loss)

    def _note_loss(self, connection: Connection) -> None:
        if connection is self._connection and not self.failure:
            self.failure = (
                f"store {self._connector.place}: the connection that holds this server's locks was lost; this server "
                "continues when the database answers"
            )
            self._lost.set()

    async def _keep(self) -> None:
        """Check the connection regularly, and get the locks back when it is lost."""
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
            holder = await self._try_store(connection, 0, _TRY_STORE)
            if not holder:
                await self._take(connection, self.number)
        except FAILURES as error:
            self.failure = failures.explain(error, self._connector.place)
        except StoreError as error:
            self.failure = str(error)
        else:
            if holder:
                self.failure = self._in_use(holder)
            elif not connection.is_closed():
                self._connection = connection
                self._watch(connection)
                self.since = time.monotonic()
                self.failure = ""
                return True
        await close(connection)
        return False


def _key(schema: int, number: int) -> int:
    """Return the key of a lock of one number: the schema is its upper half."""
    return _signed(schema * 2**32 + number, 64)


def _signed(number: int, bits: int) -> int:
    """Return a number as PostgreSQL's signed integers of so many bits hold it."""
    return number - 2**bits if number >= 2 ** (bits - 1) else number
