"""Passwords of a real database: where they may be, that a new one needs no restart, and that no error has one."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.errors import StoreRefused, StoreUnavailable
from mendflow_server.store.factory import open_store
from tests.store.builders import start
from tests.support.postgres import Postgres, postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mendflow_server.store.interface import Store

pytestmark = pytest.mark.proof

SECRET = "the-first-secret"
NEW_SECRET = "the-second-secret"
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mendflow %'"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Postgres]:
    """A database that asks for passwords over TCP."""
    with postgres_server(access=["host all all 127.0.0.1/32 scram-sha-256"]) as server:
        yield server


@pytest.fixture
async def url(guarded: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a schema, without a password; hides the developer's passwords."""
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    await guarded.execute(f"ALTER ROLE postgres PASSWORD '{SECRET}'")
    return guarded.url(await guarded.new_schema(), tcp=True)


def with_file(url: str, path: Path) -> Store:
    return open_store(url, access=DatabaseAccess(password_file=str(path)))


async def opens(store: Store) -> None:
    await store.open()
    await store.close()


async def test_asyncpgs_own_ways_work(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await opens(open_store(url.replace("//postgres@", f"//postgres:{SECRET}@")))
    path = tmp_path / "pgpass"
    path.write_text(f"127.0.0.1:*:*:postgres:{SECRET}\n", encoding="utf-8")
    path.chmod(0o600)
    await opens(open_store(f"{url}&passfile={path}"))
    monkeypatch.setenv("PGPASSFILE", str(path))
    await opens(open_store(url))
    monkeypatch.delenv("PGPASSFILE")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    await opens(open_store(url))


async def test_a_refused_password_is_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(NEW_SECRET, encoding="utf-8")
    for store in (
        open_store(url),
        open_store(url.replace("//postgres@", f"//postgres:{NEW_SECRET}@")),
        open_store(f"{url}&password={NEW_SECRET}"),
        with_file(url, path),
    ):
        with pytest.raises(StoreRefused, match="MENDFLOW_STORE_PASSWORD_FILE, PGPASSWORD or PGPASSFILE") as raised:
            await store.open()
        assert NEW_SECRET not in f"{raised.value!r} {raised.value}"


async def test_the_file_goes_before_a_password_in_the_url_and_in_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "password"
    monkeypatch.setenv("PGPASSWORD", "wrong")
    for content in (SECRET, f"{SECRET}\n", f"{SECRET}\r\n"):
        path.write_bytes(content.encode())
        await opens(with_file(url.replace("//postgres@", "//postgres:wrong@"), path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read \\(No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"only-one\nline\n", "has more than one line"),
        (b"only-\0one", "has more than one line, or a NUL"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * 10_001, "is larger than 10000 bytes"),
    ],
)
async def test_a_file_without_a_password_is_refused(url: str, tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreRefused, match=f"MENDFLOW_STORE_PASSWORD_FILE='.*': the file {says}") as raised:
        await with_file(url, path).open()
    assert "only" not in str(raised.value).replace(str(path), "")


async def test_what_is_no_file_is_refused_and_not_waited_for(url: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreRefused, match="the file is no file"):
            await asyncio.wait_for(with_file(url, path).open(), 10)


async def test_a_new_password_is_taken_without_a_restart(guarded: Postgres, url: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(SECRET, encoding="utf-8")
    store = with_file(url, path)
    await store.open()
    row = await start(store)
    await guarded.execute(f"ALTER ROLE postgres PASSWORD '{NEW_SECRET}'")
    # The connections of the old password continue; then they are lost, while the mount is between two contents.
    path.unlink()
    for (pid,) in await guarded.fetch(SESSIONS):
        await guarded.execute(f"SELECT pg_terminate_backend({pid})")
    assert "cannot be read" in await failing(store, "cannot be read")
    path.write_text(SECRET, encoding="utf-8")
    assert SECRET not in await failing(store, "PostgreSQL refused the password")
    path.write_text(NEW_SECRET, encoding="utf-8")
    while True:
        try:
            assert await store.find(["order-1"]) == {"order-1": row}
            break
        except StoreUnavailable:  # Not `StoreRefused`, which would end the server.
            await asyncio.sleep(0.02)
    await store.close()


async def failing(store: Store, words: str) -> str:
    """Wait until the store fails with these words."""
    while True:
        with pytest.raises(StoreUnavailable) as raised:
            await store.find(["order-1"])
        if words in str(raised.value):
            return str(raised.value)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("options", ["", "?sslmode=verify-full"])
async def test_the_url_must_name_a_user_where_the_process_has_none(
    monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "PGUSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)  # As in a container with a number for its user.
    with pytest.raises(StoreRefused, match="names no user.*postgresql://USER@" if not options else "set sslrootcert"):
        await open_store(f"postgresql://127.0.0.1:1/db{options}").open()
    with pytest.raises(StoreRefused):
        await open_store(f"postgresql://@127.0.0.1:1/db{options}").open()
