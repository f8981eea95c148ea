"""Create stores from URLs."""

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
    """Return the store at a URL, not opened yet. Raise `StoreRefused` if the URL does not name one.

    The path in ``sqlite:///relative.db`` is relative to the working directory, the one in
    ``sqlite:////absolute/path.db`` is absolute. ``signal_limit`` is the most untaken signals of a workflow.
    """
    return sqlite(_path(url), signal_limit=signal_limit)


def inspect_store(url: str) -> SqliteInspector:
    """Open the store at a URL for reading only. Raise `StoreError` if it cannot be opened."""
    return SqliteInspector(_path(url))


def files_of(url: str) -> tuple[Path, ...]:
    """Return the files that a store at this URL keeps open, with symlinks resolved. Raise as `open_store` does."""
    return files_at(resolve(_path(url)))


def _path(url: str) -> Path:
    scheme, separator, _ = url.partition("://")
    if scheme in {"postgresql", "postgres"}:
        # The message does not repeat the URL, which may have a password.
        message = f"PostgreSQL is not supported yet; use {_FORMS}"
        raise StoreRefused(message)
    if scheme != "sqlite" or not separator:
        message = f"unknown kind of store; use {_FORMS}"
        raise StoreRefused(message)
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    if parts.netloc or parts.query or parts.fragment or not path or path.endswith("/") or "\0" in path:
        message = f"store URL {url!r} does not name a file; use {_FORMS}"
        raise StoreRefused(message)
    if Path(path).name == ":memory:":
        message = f"an in-memory store would lose its workflows at exit; use {_FORMS}"
        raise StoreRefused(message)
    return Path(path)
