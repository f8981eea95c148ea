from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from mendflow_server.store.factory import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from tests.support.postgres import Postgres


class Backend(Protocol):
    """A place where a store can be opened repeatedly."""

    def make(self) -> Store:
        """Return a store at that place that is not open yet."""


class SqliteBackend:
    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self) -> Store:
        return open_store(f"sqlite:///{self.path}")


class PostgresBackend:
    def __init__(self, server: Postgres) -> None:
        self.url = server.url(server.schema())

    def make(self) -> Store:
        return open_store(self.url)


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Return each backend in turn, so that the suite runs on all of them."""
    if request.param == "postgres":
        # Asked for only here, so that a run without these tests needs no PostgreSQL.
        return PostgresBackend(request.getfixturevalue("postgres"))
    return SqliteBackend(tmp_path / "mendflow.db")


@pytest.fixture
async def store(backend: Backend) -> AsyncIterator[Store]:
    store = backend.make()
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def schema(postgres: Postgres) -> str:
    """A schema of its own in PostgreSQL."""
    return await postgres.new_schema()


@pytest.fixture
async def postgres_store(postgres: Postgres, schema: str) -> AsyncIterator[Store]:
    """An open store in that schema."""
    store = open_store(postgres.url(schema))
    await store.open()
    yield store
    await store.close()
