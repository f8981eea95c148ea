"""Connections to PostgreSQL, and their settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from mendflow_server.store.addresses import shown
from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.postgres.failures import FAILURES

Connection: TypeAlias = asyncpg.Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The longest that a connection may take to be made, in seconds.
CONNECT_TIMEOUT: Final = 5.0
#: The longest that a statement may take, in seconds. Each is bounded, so only a database that hangs takes so long.
COMMAND_TIMEOUT: Final = 15.0
#: The longest that `close` waits for the database, in seconds.
CLOSE_TIMEOUT: Final = 2.0

#: The settings of every session. They go before settings in the store's URL.
SETTINGS: Final[Mapping[str, str]] = {
    # A cached plan must not depend on the sizes of tables, which were empty when it was made. Every statement is
    # written to walk indexes. jit would compile these plans, whose costs seem high without sequential scans.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # A statement sees the newest rows, and repeats its check of a row that it had to wait for.
    "default_transaction_isolation": "read committed",
    "client_encoding": "UTF8",
    # The connection that holds the lock is idle by its nature.
    "idle_session_timeout": "0",
    # The database notices within half a minute that this machine is gone, and releases the lock.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

#: A commit must be durable when it returns. A stricter setting of the database, such as for a standby, is kept.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)


class Connector:
    """Makes connections to the database at a URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        #: The database as messages name it: the URL without its password.
        self.place = shown(url)
        self._made: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._name = f"mendflow {os.uname().nodename[:40]} {os.getpid()}"

    async def connect(self) -> Connection:
        """Return a new connection. Raise `StoreRefused` for a URL that cannot be read, or what asyncpg raises."""
        settings: dict[str, Any] = {**SETTINGS, "application_name": self._name}
        try:
            connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                server_settings=settings,
                # Prepared statements live as long as their connection.
                max_cached_statement_lifetime=0,
            )
        except OSError:  # Some are also a `ValueError`, as that of a certificate that is not trusted.
            raise
        except ValueError:
            # The words of these errors may repeat a part of the password.
            message = (
                f"store URL {self.place} cannot be read; use postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and write "
                "%XX for a character of the user or the password that has a meaning in URLs"
            )
            raise StoreRefused(message) from None
        try:
            await connection.execute(_DURABLE)
        except BaseException:
            connection.terminate()
            raise
        self._made.add(connection)
        return connection

    def descriptors(self) -> list[int]:
        """Return the descriptors of the open connections."""
        found = []
        for connection in list(self._made):
            # asyncpg has no public way to a connection's socket.
            transport = getattr(connection, "_transport", None)
            used = None if transport is None else transport.get_extra_info("socket")
            if used is not None and (number := used.fileno()) >= 0:
                found.append(number)
        return found


async def close(connection: Connection | None) -> None:
    """Close a connection, also one that is broken."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=CLOSE_TIMEOUT)
    except FAILURES:
        connection.terminate()
    except asyncio.CancelledError:
        connection.terminate()
        raise


def drop(connection: Connection) -> None:
    """Close a connection at once, without notice to the database."""
    with contextlib.suppress(*FAILURES):
        connection.terminate()
