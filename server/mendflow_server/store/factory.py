"""From a URL to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.sqlite import SqliteInspector, SqliteStore
from mendflow_server.store.sqlite.filesystem import files_at, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.store.interface import Store

_FORMS = "sqlite:///relative.db or sqlite:////absolute/path.db"


def open_store(url: str, *, signal_limit: int = 1_000, sqlite: Callable[..., SqliteStore] = SqliteStore) -> Store:
    """Make the store that a URL names, yet to be opened; raise `StoreRefused` on any other URL.

    ``sqlite:///relative.db`` lies in the working directory, ``sqlite:////absolute/path.db`` where it says.
    ``signal_limit`` bounds a workflow's untaken signals.
    """
    return sqlite(_path(url), signal_limit=signal_limit)


def inspect_store(url: str) -> SqliteInspector:
    """Open the store that a URL names for reading only. Raise `StoreError` when that is not possible."""
    return SqliteInspector(_path(url))


def files_of(url: str) -> tuple[Path, ...]:
    """Return the files that a store at this URL keeps open, symlinks resolved. Raises as `open_store`."""
    return files_at(resolve(_path(url)))


def _path(url: str) -> Path:
    scheme, separator, _ = url.partition("://")
    if scheme in {"postgresql", "postgres"}:
        # The URL may hold a password: it is not repeated.
        message = f"PostgreSQL comes later; a store is {_FORMS}"
        raise StoreRefused(message)
    if scheme != "sqlite" or not separator:
        message = f"no store of this kind; a store is {_FORMS}"
        raise StoreRefused(message)
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or parts.query or parts.fragment or not path or path.endswith("/") or "\0" in path:
        message = f"{url!r} does not name a file; a store is {_FORMS}"
        raise StoreRefused(message)
    if Path(path).name == ":memory:":
        message = f"a store in memory would lose everything with its process; a store is {_FORMS}"
        raise StoreRefused(message)
    return Path(path)
