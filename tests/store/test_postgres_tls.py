"""TLS to a real database: what is refused, in which words, and that changed certificates need no restart."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.errors import CommitUnknown, StoreRefused, StoreUnavailable
from mendflow_server.store.factory import open_store
from tests.store.builders import start
from tests.support.certificates import Authority, programs_with_tls
from tests.support.postgres import Postgres, postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Row

pytestmark = pytest.mark.proof

SESSIONS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'mendflow %'"
ENCRYPTED = """
SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'mendflow %'
"""
LIBPQ = ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGTARGETSESSIONATTRS")


@dataclass
class Secured:
    """A database that takes only encrypted connections over TCP, and from the role `badge` only with a certificate."""

    postgres: Postgres
    ours: Authority
    theirs: Authority

    def url(self, options: str = "", *, user: str = "postgres", host: str = "127.0.0.1") -> str:
        """Return its URL with options."""
        return f"postgresql://{user}@{host}:{self.postgres.port}/postgres?{options}"

    @property
    def root(self) -> str:
        """The option that names our authority."""
        return f"sslrootcert={self.ours.certificate}"

    def serve(self, files: tuple[Path, Path]) -> None:
        """Make the database use a certificate, at its next start."""
        for source, name in zip(files, ("server.crt", "server.key"), strict=True):
            place = self.postgres.directory / name
            shutil.copy(source, place)
            owner = self.postgres.directory.stat()
            os.chown(place, owner.st_uid, owner.st_gid)
            place.chmod(0o600)

    def restart(self) -> None:
        """Start the database anew."""
        self.postgres.stop("fast")
        self.postgres.start()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    programs = programs_with_tls()
    if not programs or shutil.which("openssl") is None:
        pytest.skip("needs openssl, and programs of PostgreSQL that were built with TLS")
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(folder / "ours"), Authority(folder / "theirs")
    lines = ["hostssl all badge 127.0.0.1/32 cert", "hostssl all all 127.0.0.1/32 trust"]
    with postgres_server(programs=programs, access=lines) as postgres:
        where = postgres.directory
        secured = Secured(postgres, ours, theirs)
        secured.serve(ours.sign("good", "IP:127.0.0.1"))
        shutil.copy(ours.certificate, where / "authority.crt")
        (where / "authority.crt").chmod(0o644)
        with (postgres.data / "postgresql.conf").open("a") as file:
            for name, value in (("cert", "server.crt"), ("key", "server.key"), ("ca", "authority.crt")):
                file.write(f"ssl_{name}_file = '{where / value}'\n")
            file.write("ssl = on\n")
        secured.restart()
        asyncio.run(postgres.execute("CREATE ROLE badge LOGIN SUPERUSER"))
        yield secured


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the variables and the home directory of the developer."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in LIBPQ:
        monkeypatch.delenv(name, raising=False)


async def refused(url: str) -> str:
    """Open a store that cannot be opened, and return the words."""
    store = open_store(url)
    with pytest.raises((StoreRefused, StoreUnavailable)) as raised:
        await store.open()
    assert "\n" not in str(raised.value)
    return str(raised.value)


async def test_a_verified_connection_is_encrypted(database: Secured) -> None:
    for options in (f"sslmode=verify-full&{database.root}", "sslmode=require", ""):
        store = open_store(database.url(options))
        await store.open()
        await start(store, f"order-{options[:16]}")
        ((encrypted,),) = await database.postgres.fetch(ENCRYPTED)
        assert encrypted is True
        await store.close()


async def test_the_standard_variables_work(database: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = database.ours.sign("badge", "DNS:badge")
    for name, value in zip(LIBPQ, ("verify-full", database.ours.certificate, certificate, key), strict=False):
        monkeypatch.setenv(name, str(value))
    store = open_store(database.url(user="badge"))
    await store.open()
    assert await database.postgres.fetch(f"{SESSIONS} AND usename = 'badge'")
    await store.close()
    monkeypatch.setenv("PGSSLROOTCERT", str(database.theirs.certificate))
    assert "set sslrootcert" in await refused(database.url(user="badge"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("sslmode=verify-full&sslrootcert={theirs}", "not from an authority in sslrootcert; set sslrootcert"),
        ("sslmode=verify-ca&sslrootcert={theirs}", "not from an authority in sslrootcert; set sslrootcert"),
        ("sslmode=verify-full", "sslmode=verify-full needs the certificate of the authority"),
        ("sslmode=verify-full&sslrootcert=/no/such.crt", "sslrootcert='/no/such.crt': the file cannot be read"),
        ("sslmode=verify-full&sslrootcert=system", "such as /etc/ssl/certs/ca-certificates.crt"),
        ("sslmode=verify-full&sslrootcert={key}", "TLS with the database failed; check sslmode"),
        ("sslmode=require&sslcert=/no/such.crt", "sslcert='/no/such.crt': the file cannot be read"),
        ("sslmode=require&sslcert={certificate}&sslkey={other_key}", "check .* that sslkey belongs to sslcert"),
        ("sslmode=full", "sslmode='full': there is no such mode; use disable, .* or verify-full"),
        ("sslmode=disable", "no encryption"),
        ("target_session_attrs=standby", "this server writes; use read-write, primary or any"),
    ],
)
async def test_a_refusal_says_what_to_do(database: Secured, options: str, says: str) -> None:
    certificate, key = database.ours.sign("client", "DNS:client")
    _, other_key = database.ours.sign("other", "DNS:other")
    values = {"theirs": database.theirs.certificate, "certificate": certificate, "key": key, "other_key": other_key}
    found = await refused(database.url(options.format(**values)))
    assert re.search(says, found), found


async def test_a_certificate_for_another_host_is_refused_only_by_verify_full(database: Secured) -> None:
    found = await refused(database.url(f"sslmode=verify-full&{database.root}", host="localhost"))
    assert "the database's certificate is for another host; use a host of the certificate" in found
    store = open_store(database.url(f"sslmode=verify-ca&{database.root}", host="localhost"))
    await store.open()
    await store.close()


async def test_a_role_that_needs_a_certificate_says_so(database: Secured) -> None:
    found = await refused(database.url("sslmode=require", user="badge"))
    assert "sslcert and sslkey" in found
    certificate, key = database.theirs.sign("badge", "DNS:badge")
    found = await refused(database.url(f"sslmode=require&sslcert={certificate}&sslkey={key}", user="badge"))
    assert "sslcert" in found, found


async def test_an_expired_certificate_is_refused_and_a_new_one_needs_no_restart_of_the_server(
    database: Secured,
) -> None:
    url = database.url(f"sslmode=verify-full&{database.root}")
    store = open_store(url)
    await store.open()
    try:
        database.serve(database.ours.sign("old", "IP:127.0.0.1", days=-1))
        await asyncio.to_thread(database.restart)
        assert "has expired; give the database a new one" in await refused(url)
        said = ""
        while "has expired" not in said:
            with pytest.raises((StoreUnavailable, CommitUnknown)) as raised:
                await start(store, "while-it-is-expired")
            said = str(raised.value)
    finally:
        database.serve(database.ours.sign("good", "IP:127.0.0.1"))
        await asyncio.to_thread(database.restart)
    assert await opened_again(store) == {}
    await store.close()


async def opened_again(store: Store) -> Mapping[str, Row]:
    """Wait until the store answers again."""
    while True:
        try:
            return await store.find(["while-it-is-expired"])
        except StoreUnavailable:
            await asyncio.sleep(0.05)


async def test_a_file_that_is_away_for_a_moment_stops_no_running_server(database: Secured, tmp_path: Path) -> None:
    root = tmp_path / "root.crt"
    shutil.copy(database.ours.certificate, root)
    store = open_store(database.url(f"sslmode=verify-full&sslrootcert={root}"))
    await store.open()
    root.unlink()
    for (pid,) in await database.postgres.fetch(SESSIONS):
        await database.postgres.execute(f"SELECT pg_terminate_backend({pid})")
    said = ""
    while "cannot be read" not in said:
        try:
            await store.find(["while-it-is-expired"])
        except StoreUnavailable as error:  # Not `StoreRefused`, which would end the server.
            said = str(error)
        await asyncio.sleep(0.01)
    shutil.copy(database.ours.certificate, root)
    assert await opened_again(store) == {}
    await store.close()


async def test_a_database_without_tls_says_so(postgres: Postgres) -> None:
    found = await refused(postgres.url(tcp=True) + "&sslmode=require")
    assert "the database does not offer TLS, which sslmode in the store's URL demands; set ssl = on" in found


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_with_tls_knows_its_descriptors_on_each_loop(database: Secured, loop: str) -> None:
    """A forked child closes them; else it would keep the lock of a killed server."""

    async def sockets() -> tuple[int, set[int]]:
        store = open_store(database.url(f"sslmode=verify-full&{database.root}"))
        await store.open()
        try:
            await asyncio.gather(*(store.find([str(number)]) for number in range(20)))
            while len(found := store.connections()) < 6:  # The one for notices is made beside the others.
                await asyncio.sleep(0.01)
            return len(found), {os.fstat(each).st_mode for each in found}
        finally:
            await store.close()

    new_loop = asyncio.new_event_loop if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        count, modes = runner.run(sockets())
    assert count == 6
    assert all(stat.S_ISSOCK(mode) for mode in modes)
