"""The sessions that read, and the one that writes. Each connects when it has work, and translates errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from mendflow_server.store.errors import StoreDamaged, StoreUnavailable
from mendflow_server.store.postgres import failures
from mendflow_server.store.postgres.connection import close, confirm_durable, drop
from mendflow_server.store.postgres.failures import FAILURES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mendflow_server.store.damage import Damage
    from mendflow_server.store.postgres.connection import Connection, Connector
    from mendflow_server.store.postgres.membership import Membership

_T = TypeVar("_T")

#: The most attempts at a transaction that another one was in the way of.
_ATTEMPTS: Final = 5


class ReadingSession:
    """A session that only reads."""

    def __init__(self, connector: Connector, membership: Membership, damage: Damage) -> None:
        self._connector = connector
        self._membership = membership
        self._damage = damage
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do the work, and repeat it once if the connection was lost, because a read changes nothing."""
        self._membership.check()
        fresh = self._connection is None or self._connection.is_closed()
        try:
            return await self._run(work)
        except FAILURES as error:
            if fresh or failures.is_harmless(error):
                raise self._damage.look_at(failures.unavailable(error, self._connector.place)) from error
        except StoreDamaged as error:  # PostgreSQL read it, but it is malformed.
            self._damage.look_at(error)
            raise
        try:
            return await self._run(work)
        except FAILURES as error:
            raise self._damage.look_at(failures.unavailable(error, self._connector.place)) from error

    async def _run(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connector.connect()
        try:
            return await work(self._connection)
        except FAILURES as error:
            if not failures.is_harmless(error):
                drop(self._connection)
                self._connection = None
            raise

    async def close(self) -> None:
        """Close the connection."""
        await close(self._connection)


class WritingSession:
    """The one session that writes. It has a lock of its own, so that it can check that an earlier one has ended.

    A commit whose connection was lost may still be on its way in the database. So before this session does anything
    else it connects anew and takes that lock, for which `Membership.take_writer` ends the earlier backend.
    """

    def __init__(self, connector: Connector, membership: Membership, damage: Damage) -> None:
        self._connector = connector
        self._membership = membership
        self._damage = damage
        self._connection: Connection | None = None
        #: Whether a commit may still be on its way, so that nothing that is read shows its outcome.
        self.unsettled = False
        #: How many pieces of work had an unknown outcome.
        self.unknown = 0

    async def run(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """Do the work, which is one transaction. Raise `CommitUnknown` if it may have been committed."""
        self._membership.check()
        for attempt in range(_ATTEMPTS):
            connection = await self._connected()
            try:
                return await work(connection)
            except FAILURES as error:
                if failures.is_repeatable(error) and attempt < _ATTEMPTS - 1:
                    await asyncio.sleep(0.01 * attempt)
                    continue
                translated = failures.translate(error, self._connector.place)
                if not failures.is_harmless(error):
                    self.unsettled = True
                    self.unknown += 1
                    self._drop()
                raise self._damage.look_at(translated) from error
        raise AssertionError

    async def settle(self, _: Connection) -> None:
        """Do nothing: that the session has a connection proves that no earlier commit is on its way."""

    async def _connected(self) -> Connection:
        if self._connection is not None and self._connection.is_closed():
            self._drop()
        if self._connection is None:
            connection = None
            try:
                connection = await self._connector.connect()
                await self._membership.take_writer(connection)
                await confirm_durable(connection)
            except FAILURES as error:
                if connection is not None:
                    drop(connection)
                raise failures.unavailable(error, self._connector.place) from error
            except StoreUnavailable:
                if connection is not None:
                    drop(connection)
                raise
            self._connection = connection
            self.unsettled = False
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            drop(self._connection)
            self._connection = None

    async def close(self) -> None:
        """Close the connection."""
        await close(self._connection)
