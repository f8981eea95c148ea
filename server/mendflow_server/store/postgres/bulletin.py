"""Notices between replicas, by NOTIFY and LISTEN. They only give speed: a replica that misses one finds out by
a query.

A notice is posted after the commit that it is about, on a connection of its own, because a transaction with NOTIFY
holds a lock that all others wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import structlog

from mendflow_server.store.errors import StoreError
from mendflow_server.store.postgres.connection import close
from mendflow_server.store.postgres.failures import FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.store.postgres.connection import Connection, Connector

log = structlog.get_logger("mendflow.store")

#: The most notices that wait to be posted. The oldest are dropped first.
_MOST: Final = 100
#: The pause before a new connection, and between two checks of an idle one, in seconds.
_RETRY: Final = 1.0
_PING: Final = 5.0
_POST: Final = "SELECT pg_notify($1, notice) FROM unnest($2::text[]) AS notice"


class Bulletin:
    """The notices of the replicas of one store."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._pending: list[str] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._heard: Callable[[str], None] = lambda _: None

    def listen(self, heard: Callable[[str], None]) -> None:
        """Call ``heard`` with the notices of other replicas from now on."""
        self._heard = heard

    def open(self, schema: int) -> None:
        """Begin to listen, on the channel of a schema."""
        self._task = asyncio.get_running_loop().create_task(self._run(f"mendflow_{schema}"))

    async def close(self) -> None:
        """Stop. May be called twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def post(self, notice: str) -> None:
        """Post a notice soon."""
        self._pending.append(notice)
        del self._pending[:-_MOST]
        self._wake.set()

    async def _run(self, channel: str) -> None:
        while True:
            connection = None
            try:
                connection = await self._connector.connect()
                await connection.add_listener(channel, self._notified)
                await self._serve(connection, channel)
            except (*FAILURES, StoreError) as error:
                log.info("bulletin_lost", error=str(error) or type(error).__name__)
            finally:
                await close(connection)
            await asyncio.sleep(_RETRY)

    async def _serve(self, connection: Connection, channel: str) -> None:
        """Post notices until the connection is lost."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _PING)
            self._wake.clear()
            pending, self._pending = self._pending, []
            await connection.execute(_POST, channel, pending)

    def _notified(self, connection: Any, pid: int, _: str, notice: object) -> None:
        if pid != connection.get_server_pid():
            self._heard(str(notice))
