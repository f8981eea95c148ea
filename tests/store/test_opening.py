"""Opening a store by its URL, and the files that SQLite's store refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from mendflow_server.store.errors import StoreError, StoreRefused
from mendflow_server.store.factory import files_of, inspect_store, open_store
from mendflow_server.store.records import Suspect
from mendflow_server.store.sqlite import SqliteStore
from mendflow_server.store.sqlite.filesystem import file_system_of
from mendflow_server.store.sqlite.migrate import APPLICATION_ID, migrations
from tests.store.builders import start


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "unknown kind of store"),
        ("mendflow.db", "unknown kind of store"),
        ("sqlite:mendflow.db", "unknown kind of store"),
        ("mysql://user:secret@host/db", "unknown kind of store"),
        ("postgresqls://user:secret@host/db", "unknown kind of store"),
        ("sqlite://", "does not name a file"),
        ("sqlite:///", "does not name a file"),
        ("sqlite:////", "does not name a file"),
        ("sqlite:///folder/", "does not name a file"),
        ("sqlite://host/mendflow.db", "does not name a file"),
        ("sqlite:///mendflow.db?mode=ro", r"has the character \?.* write %3F"),
        ("sqlite:///mendflow.db#part", "has the character #.* write %23"),
        ("sqlite:///100%.db", "has the character %.* write %25"),
        ("sqlite:///100%2.db", "has the character %.* write %25"),
        ("sqlite:///%zz.db", "has the character %.* write %25"),
        ("sqlite:////%2F", "does not name a file"),
        ("sqlite:///%00", "does not name a file"),
        ("sqlite:///:memory:", "in-memory"),
    ],
)
def test_other_urls_are_refused_with_the_right_form(url: str, says: str) -> None:
    with pytest.raises(StoreRefused, match=says) as refusal:
        open_store(url)
    assert "sqlite:///" in str(refusal.value)
    assert "secret" not in str(refusal.value)


async def test_relative_and_absolute_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///here.db", f"sqlite:///{tmp_path}/there.db", "sqlite:///a%20b%3F%25%23.db"):
        store = open_store(url)
        await store.open()
        await start(store)
        await store.close()
    made = {name for name in names_in(tmp_path) if not name.endswith(".lock")}
    assert made == {"here.db", "there.db", "a b?%#.db"}


#: Names of files. Each printable ASCII character but the slash is in one, and so are characters that URLs often change.
NAMES = [
    *(f"a{chr(code)}b" for code in range(0x20, 0x7F) if chr(code) != "/"),
    *(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "./"),
    " leading", "trailing ", "tab\there", "line\nend", "\x01", "\x7f", "...", ".hidden", "~", "é", "e\u0301", "名前",
    "\U0001f600", "a\u2028b", "\udcff.db", "a\udc80b", "%41", "%", "a%00b", "100%25.db", "C:\\data\\x.db", "C:", "CON",
    "nul.db", "x.db?mode=ro", "file:x.db", "sqlite:x", "a&b=c;d", "a+b", "x" * 200,
]  # fmt: skip


def test_the_url_of_each_name_leads_back_to_it() -> None:
    for name in NAMES:
        for path in (Path(name), Path("folder") / name, Path("/data") / name):
            assert files_of(f"sqlite:///{quote(os.fsencode(path))}")[0] == Path(os.path.realpath(path)), name


def test_characters_without_a_meaning_in_urls_need_no_escape() -> None:
    for name in NAMES:
        if not set(name) & set("%?#"):
            assert files_of(f"sqlite:///{name}")[0] == Path(os.path.realpath(name)), name


@pytest.mark.parametrize("name", [":memory:", *NAMES[-36:]], ids=ascii)
async def test_a_store_of_any_name_is_made_where_its_url_says_and_read_back(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{quote(os.fsencode(tmp_path / name))}"
    store = open_store(url)
    await store.open()
    await start(store)
    await store.close()
    made = {each for each in names_in(tmp_path) if not each.endswith(".lock")}
    assert made == {name}
    with contextlib.closing(inspect_store(url)) as inspector:
        assert inspector.count_open() == 1


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def refusal_of(path: Path, mountinfo: Path | None = None) -> str:
    store = SqliteStore(path, mountinfo=mountinfo) if mountinfo else SqliteStore(path)
    with pytest.raises(StoreRefused) as refusal:
        await store.open()
    await store.close()
    return str(refusal.value)


async def test_a_missing_directory_is_not_created(tmp_path: Path) -> None:
    assert "does not exist" in await refusal_of(tmp_path / "missing" / "mendflow.db")
    assert "is a directory" in await refusal_of(tmp_path)
    assert names_in(tmp_path) == []


async def test_a_second_store_on_the_file_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    first = SqliteStore(path)
    await first.open()
    message = await refusal_of(path)
    assert str(path) in message
    assert f"process {os.getpid()}" in message
    await start(first)
    await first.close()
    second = SqliteStore(path)
    await second.open()
    assert set(await second.find(["order-1"])) == {"order-1"}
    await second.close()


HOLDER = """
import asyncio, sys
from pathlib import Path
from mendflow_server.store.records import Batch
from mendflow_server.store.sqlite import SqliteStore
from tests.store.builders import make_row, new
async def hold():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    await store.commit(Batch([new(make_row(), b"one")]))
    print("committed", flush=True)
    await asyncio.sleep(60)
asyncio.run(hold())
"""


async def test_a_killed_process_leaves_its_commits_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, str(path), stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"committed\n"
    assert f"process {holder.pid}" in await refusal_of(path)
    holder.send_signal(signal.SIGKILL)
    await holder.wait()
    store = SqliteStore(path)
    await store.open()
    row = (await store.find(["order-1"]))["order-1"]
    assert (await store.load([row.key]))[0].events == [b"one"]
    await store.close()


async def test_another_programs_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, other, damaged = tmp_path / "text.db", tmp_path / "other.db", tmp_path / "damaged.db"
    text.write_text("no database, but long enough to have a header " * 100)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    store = SqliteStore(damaged)
    await store.open()
    await start(store, "order-1", b"x" * 50_000)
    await store.close()
    damaged.write_bytes(damaged.read_bytes()[:10_000])
    for path, says in ((text, "not a database"), (other, "another program's"), (damaged, "damaged")):
        before = path.read_bytes()
        assert says in await refusal_of(path)
        assert path.read_bytes() == before


async def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    path.touch()
    store = SqliteStore(path)
    await store.open()
    await start(store)
    await store.close()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    assert "newer version" in await refusal_of(path)
    assert path.read_bytes() == before


async def test_store_of_the_first_schema_is_migrated_with_its_ledger(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(migrations()[0])
    connection.execute("INSERT INTO suspects VALUES (7, 'charge', 2, 1, 1)")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    store = SqliteStore(path)
    await store.open()
    try:
        assert await store.suspects() == [Suspect(7, "charge", evidence=2, alone=1, held=True)]
        assert await store.in_progress(after_key=0, limit=10) == []
    finally:
        await store.close()
    with sqlite3.connect(path) as after:
        assert after.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
    after.close()


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    # A Mendflow file at version 0 that already has one of the tables, so the first migration fails halfway.
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    connection = sqlite3.connect(path)
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL").fetchall()
    for (name,) in tables:
        if name not in {"suspects", "sqlite_sequence"}:
            connection.execute(f"DROP TABLE {name}")
    connection.execute("PRAGMA user_version = 0")
    connection.commit()
    connection.close()
    assert "suspects already exists" in await refusal_of(path)
    connection = sqlite3.connect(path)
    left = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert left == {"suspects", "sqlite_sequence"}
    assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()


def mounts(*entries: tuple[str, str]) -> str:
    return "".join(f"36 25 0:32 / {point} rw,relatime shared:1 - {kind} source rw\n" for point, kind in entries)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/mendflow.db", "nfs4"),
        ("/database/mendflow.db", "ext4"),
        ("/data/local/mendflow.db", "xfs"),
        ("/with space/mendflow.db", "cifs"),
        ("/twice/mendflow.db", "ext4"),
    ],
)
def test_the_innermost_and_latest_mount_is_used(path: str, kind: str) -> None:
    text = mounts(
        ("/", "ext4"), ("/data/local", "xfs"), ("/data", "nfs4"), ("/with\\040space", "cifs"), ("/twice", "nfs"),
        ("/twice", "ext4"),
    )  # fmt: skip
    assert file_system_of(path, text) == kind


def mountinfo_of(folder: Path, kind: str) -> Path:
    """Return a table of mounts in which the folder has this file system."""
    table = folder.with_name("mountinfo")
    table.write_text(mounts(("/", "ext4"), (str(folder.resolve()), kind)))
    return table


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"])
async def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    message = await refusal_of(folder / "mendflow.db", mountinfo=mountinfo_of(folder, kind))
    assert kind in message
    assert "local disk" in message
    assert names_in(folder) == []


async def test_a_store_that_is_not_open_raises(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "mendflow.db")
    with pytest.raises(StoreError, match="not open"):
        await store.find(["order-1"])
    await store.open()
    with pytest.raises(StoreError, match="opened already"):
        await store.open()
    await start(store)
    await store.close()


async def test_a_removed_file_is_not_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    store = SqliteStore(folder / "mendflow.db")
    await store.open()
    await start(store)
    await store.close()
    shutil.rmtree(folder)
    assert "does not exist" in await refusal_of(folder / "mendflow.db")
