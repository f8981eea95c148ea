"""Create stores from URLs."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_to_bytes

from mendflow_server.store.addresses import is_postgres
from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.sqlite import SqliteInspector, SqliteStore
from mendflow_server.store.sqlite.backup import Backup, back_up
from mendflow_server.store.sqlite.filesystem import files_at, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mendflow_server.store.access import DatabaseAccess
    from mendflow_server.store.interface import Store
    from mendflow_server.store.moving.move import Moved, Progress

_FILES: Final = "sqlite:///relative.db or sqlite:////absolute/path.db"
_DATABASE: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_FORMS: Final = f"{_FILES}, or {_DATABASE}"
#: The start of a query or a fragment, and a percent sign that begins no escape.
_NOT_LITERAL: Final = re.compile(r"[?#]|%(?![0-9A-Fa-f]{2})")


def open_store(
    url: str,
    *,
    signal_limit: int = 1_000,
    lease: float = 10.0,
    build: str = "",
    access: DatabaseAccess | None = None,
    sqlite: Callable[..., SqliteStore] = SqliteStore,
) -> Store:
    """Return the store at a URL, not opened yet. Raise `StoreRefused` if the URL does not name one.

    The path in ``sqlite:///relative.db`` is relative to the working directory, the one in
    ``sqlite:////absolute/path.db`` is absolute. In the path ``%XX`` is a byte, so that each file has a URL. ``%``,
    ``?`` and ``#`` must be escaped, and every other character stands for itself.

    ``postgresql://user:password@host:port/database?options`` is as asyncpg and libpq read it.

    ``signal_limit`` is the most untaken signals of a workflow. ``lease`` is for how long a beat proves that a replica
    lives, in seconds, and ``build`` is the name of the code that this process serves, where the store can have several.
    ``access`` is how the server uses a database.
    """
    if is_postgres(url):
        return _open_postgres(url, signal_limit=signal_limit, lease=lease, build=build, access=access)
    return sqlite(_path(url), signal_limit=signal_limit)


def _open_postgres(url: str, **options: Any) -> Store:
    # Imported here: only a server on PostgreSQL needs asyncpg.
    with _asyncpg_needed():
        from mendflow_server.store.postgres import PostgresStore  # noqa: PLC0415 - as above
    return PostgresStore(_lower_scheme(url), **options)


@contextlib.contextmanager
def _asyncpg_needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "asyncpg":
            raise
        message = "a store in PostgreSQL needs the package asyncpg; install mendflow[server,postgres]"
        raise StoreRefused(message) from None


def _lower_scheme(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.lower()}://{rest}"


def inspect_store(url: str) -> SqliteInspector:
    """Open the store at a URL for reading only. Raise `StoreError` if it cannot be opened."""
    if is_postgres(url):
        message = "only an SQLite file can be read without its server; use --server to read from the running server"
        raise StoreRefused(message)
    return SqliteInspector(_path(url))


def back_up_store(url: str, destination: Path) -> Backup:
    """Copy the store at a URL to a new file. Raise `StoreRefused` if that cannot be, `StoreError` if it fails."""
    if is_postgres(url):
        message = "a store in PostgreSQL is backed up by PostgreSQL's own tools; use pg_dump, or a base backup with WAL"
        raise StoreRefused(message)
    return back_up(_path(url), destination)


async def move_store(source: str, target: str, progress: Progress, access: DatabaseAccess) -> Moved:
    """Move the store at one URL to the empty one at another. Raise as `moving.move.move` does."""
    path = None if is_postgres(source) else _path(source)
    if not is_postgres(target):
        _path(target)  # Anything that names no store at all is refused in its own words.
    if path is None or not is_postgres(target):
        advice = ""
        if is_postgres(source) == is_postgres(target):
            tool = "pg_dump and psql" if path is None else "`mendflow backup`"
            advice = f"; to copy a store to its own kind, use {tool}"
        message = f"a store moves from {_FILES} to {_DATABASE}, in no other direction{advice}"
        raise StoreRefused(message)
    with _asyncpg_needed():
        from mendflow_server.store.moving.move import move  # noqa: PLC0415 - it needs asyncpg
    return await move(path, _lower_scheme(target), progress, access)


def files_of(url: str) -> tuple[Path, ...]:
    """Return the files that a store at this URL keeps open, with symlinks resolved. Raise as `open_store` does."""
    return () if is_postgres(url) else files_at(resolve(_path(url)))


def absolute_url(url: str) -> str:
    """Return the URL with an absolute path, so that it names the same store in every working directory.

    Return a URL that does not name a store in a relative path as it is.
    """
    try:
        path = _path(url)
    except StoreRefused:
        return url
    if path.is_absolute():
        return url
    return f"sqlite:///{quote(os.fsencode(Path.cwd()))}/{url.removeprefix('sqlite:///')}"


def _path(url: str) -> Path:
    scheme, separator, rest = url.partition("://")
    if scheme != "sqlite" or not separator:
        message = f"unknown kind of store; use {_FORMS}"
        raise StoreRefused(message)
    if not rest.startswith("/"):
        message = f"store URL {url!r} does not name a file; use {_FILES}"
        raise StoreRefused(message)
    # urlsplit is not used, because it drops tabs and line ends.
    path = _decoded(rest[1:], url)
    # "sqlite:////" has an empty name.
    if not path.strip("/") or path.endswith("/") or "\0" in path:
        message = f"store URL {url!r} does not name a file; use {_FILES}"
        raise StoreRefused(message)
    if path == ":memory:":
        message = f"an in-memory store would lose its workflows at exit; use {_FILES}"
        raise StoreRefused(message)
    return Path(path)


def _decoded(text: str, url: str) -> str:
    """Return the path that a URL has after its third slash: %XX is a byte, and all else stands for itself."""
    problem = _NOT_LITERAL.search(text)
    if problem is not None:
        character = problem[0]
        message = (
            f"store URL {url!r} has the character {character} in its path; write %{ord(character):02X} if it belongs "
            f"to the name of the file, or use {_FILES}"
        )
        raise StoreRefused(message)
    try:
        return os.fsdecode(unquote_to_bytes(os.fsencode(text)))
    except UnicodeError:
        message = f"store URL {url!r} has a character that no file name of this system can have; use another name"
        raise StoreRefused(message) from None
