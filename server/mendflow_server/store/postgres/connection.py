"""Connections to PostgreSQL, and their settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import asyncpg

from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.addresses import shown
from mendflow_server.store.errors import StoreError, StoreRefused, StoreUnavailable
from mendflow_server.store.postgres.failures import FAILURES
from mendflow_server.store.postgres.hosts import Host, hosts_of
from mendflow_server.store.postgres.options import OptionRefused, check_options, session_attributes
from mendflow_server.store.postgres.passwords import PasswordUnreadable, read_password

Connection: TypeAlias = asyncpg.Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How much longer than the database's own time limit the server waits for the answer to a statement, in seconds. So a
#: database that works says itself that it cancelled the statement, and the connection can be used on.
ANSWER_TIMEOUT: Final = 1.0
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
    # A wait for a lock is a part of a statement, whose time is limited.
    "lock_timeout": "0",
    # The database notices within half a minute that this machine is gone, and releases the lock.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

#: A commit must be durable when it returns. A stricter setting of the database, such as for a standby, is kept.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
#: Each statement has a time limit, so transactions need none. PostgreSQL has that setting since this version.
_UNLIMITED: Final = "SET transaction_timeout = 0;"
_UNLIMITED_SINCE: Final = 17
#: An empty message in the WAL, for its commit, which waits for the standbys as each commit does.
_SETTLE: Final = "SELECT pg_logical_emit_message(true, 'mendflow', '')"


class Connector:
    """Makes connections to the database at a URL."""

    def __init__(self, url: str, access: DatabaseAccess | None = None) -> None:
        self._url = url
        self._access = access or DatabaseAccess()
        #: The database as messages name it: the URL without its password.
        self.place = shown(url)
        self._made: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._name = f"mendflow {os.uname().nodename[:40]} {os.getpid()}"
        #: The host of the last connection, of a URL with several. It is tried first.
        self._host: Host | None = None
        self._has_connected = False

    async def connect(self) -> Connection:
        """Return a new connection.

        Raise what asyncpg raises, and for an option or a password that cannot be used `StoreRefused` before the first
        connection and `StoreUnavailable` after it: a file may be missing while it is replaced.
        """
        try:
            check_options(self._url)
            password = read_password(self._access.password_file) if self._access.password_file else None
            connection = await self._connect_to_any(hosts_of(self._url), password)
        except (OptionRefused, PasswordUnreadable) as error:
            raise self._refusal(f"store {self.place}: {error}") from None
        except (OSError, asyncpg.TargetServerAttributeNotMatched):
            # Some of the first are also a `ValueError`, as that of a certificate that is not trusted.
            raise
        except ValueError:
            # The words of these errors may repeat a part of the password.
            message = (
                f"store URL {self.place} cannot be read; use postgresql://USER:PASSWORD@HOST:PORT/DATABASE, and write "
                "%XX for a character of the user or the password that has a meaning in URLs"
            )
            raise self._refusal(message) from None
        try:
            timed = connection.get_server_version().major >= _UNLIMITED_SINCE
            await connection.execute(f"{_UNLIMITED if timed else ''} {_DURABLE}")
        except BaseException:
            connection.terminate()
            raise
        self._made.add(connection)
        self._has_connected = True
        return connection

    def _refusal(self, message: str) -> StoreError:
        return StoreUnavailable(message) if self._has_connected else StoreRefused(message)

    async def _connect_to_any(self, hosts: list[Host], password: str | None) -> Connection:
        """Connect to the first host that can be used, or raise the error that says most."""
        if not hosts:
            return await self._connect_to(None, password)
        errors: list[BaseException] = []
        for host in sorted(hosts, key=lambda each: each != self._host):
            try:
                connection = await self._connect_to(host, password)
            except FAILURES as error:
                errors.append(error)
            else:
                self._host = host
                return connection
        # What a database says is more than that it is not the right one, and that is more than that none answers.
        raise min(errors, key=_rank)

    async def _connect_to(self, host: Host | None, password: str | None) -> Connection:
        access = self._access
        limit = str(round(access.statement_timeout * 1000))
        settings: dict[str, Any] = {
            **SETTINGS,
            "application_name": self._name,
            "statement_timeout": limit,
            # A server that stops in the middle of a transaction must not keep its rows from others.
            "idle_in_transaction_session_timeout": limit,
        }
        return await asyncpg.connect(
            self._url,
            host=host and host.name,
            port=host and host.port,
            password=password,
            target_session_attrs=session_attributes(self._url),
            timeout=access.connect_timeout,
            command_timeout=access.statement_timeout + ANSWER_TIMEOUT,
            server_settings=settings,
            # Prepared statements live as long as their connection.
            max_cached_statement_lifetime=0,
        )

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


async def confirm_durable(connection: Connection) -> None:
    """Wait until all that other sessions have committed is as durable as the database's settings demand.

    Where commits wait for a synchronous standby, PostgreSQL shows a commit whose session ended in that wait, although
    no standby has it. A failover would lose it, so it must not count as committed before this returns.
    """
    await connection.execute(_SETTLE)


def _rank(error: BaseException) -> int:
    if isinstance(error, asyncpg.PostgresError):
        return 0
    return 1 if isinstance(error, asyncpg.TargetServerAttributeNotMatched) else 2


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
