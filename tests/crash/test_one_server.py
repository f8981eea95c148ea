"""Two servers never use one file, whatever path leads them to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from mendflow_server.store.errors import StoreRefused
from mendflow_server.store.sqlite import SqliteStore
from tests.support.mounting import mount, unmount
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.proof


@dataclass
class Elsewhere(ServerProcess):
    """A server whose store has a path of its own."""

    path: Path = Path()

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.path

    def refused(self) -> str:
        """Start the server, and return the one line with which it ends."""
        self.start(wait=False)
        assert self.wait_died() == 1
        (line,) = [
            line
            for line in (self.directory / "server.log").read_text("utf-8").splitlines()
            if line.startswith("error: ")
        ]
        return line


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Elsewhere]:
    yield from kept(at(tmp_path / "first", tmp_path / "data" / "mendflow.db"))


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Elsewhere]:
    yield from kept(at(tmp_path / "second", tmp_path / "other" / "other.db"))


def at(directory: Path, path: Path) -> Elsewhere:
    directory.mkdir()
    path.parent.mkdir()
    return Elsewhere(directory, path=path)


def kept(server: Elsewhere) -> Iterator[Elsewhere]:
    try:
        yield server
    finally:
        server.kill()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def assert_serves(server: Elsewhere, text: str) -> None:
    async with Client(server.grpc_address) as client:
        assert await client.run("echo", text) == text


def link_file(first: Path, second: Path) -> None:
    second.symlink_to(first)


def link_to_link(first: Path, second: Path) -> None:
    between = second.with_name("between.db")
    between.symlink_to(os.path.relpath(first, between.parent))
    second.symlink_to(between)


def link_folder(first: Path, second: Path) -> None:
    second.parent.rmdir()
    second.parent.symlink_to(first.parent)
    assert second.name != first.name
    second.symlink_to(first.name)


@pytest.mark.parametrize("link", [link_file, link_to_link, link_folder])
async def test_second_server_through_a_symlink_is_refused_and_the_first_continues(
    first: Elsewhere, second: Elsewhere, link: Callable[[Path, Path], None]
) -> None:
    first.start()
    link(first.path, second.path)
    assert first.process is not None
    assert f"{first.path} is in use by another server (process {first.process.pid})" in second.refused()
    await assert_serves(first, "continues")
    assert not {name for name in names_in(second.path.parent) if name.startswith("other.db.")}
    first.kill()
    second.start()
    await assert_serves(second, "has it now")
    assert names_in(first.path.parent) >= {f"mendflow.db{end}" for end in ("", "-wal", "-shm", ".lock", ".note")}


async def test_a_dangling_symlink_makes_the_file_that_it_names(first: Elsewhere, second: Elsewhere) -> None:
    second.path.symlink_to(first.path)
    second.start()
    await assert_serves(second, "new")
    assert names_in(first.path.parent) == {f"mendflow.db{end}" for end in ("", "-wal", "-shm", ".lock", ".note")}
    assert names_in(second.path.parent) == {"other.db"}


async def test_a_file_with_a_hard_link_is_refused_under_both_names_until_one_is_removed(
    first: Elsewhere, second: Elsewhere
) -> None:
    first.start()
    second.path.hardlink_to(first.path)
    message = second.refused()
    assert f"{second.path} has 2 names (hard links)" in message
    assert "remove the other names" in message
    await assert_serves(first, "continues")
    first.kill()
    assert f"{first.path} has 2 names (hard links)" in first.refused()
    second.path.unlink()
    first.start()
    await assert_serves(first, "continues")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, because other systems lock only the lock file")
async def test_a_second_server_is_refused_when_the_lock_file_was_removed(first: Elsewhere, second: Elsewhere) -> None:
    first.start()
    first.path.with_name("mendflow.db.lock").unlink()
    second.path = first.path
    assert first.process is not None
    message = second.refused()
    assert f"{first.path} is locked by another process ({first.process.pid})" in message
    await assert_serves(first, "continues")


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="needs Linux and root, because it mounts a file"
)
async def test_a_second_server_through_a_bind_mount_is_refused(first: Elsewhere, second: Elsewhere) -> None:
    first.start()
    second.path.touch()
    mount(second.path, "--bind", str(first.path))
    try:
        assert first.process is not None
        assert f"is locked by another process ({first.process.pid})" in second.refused()
        await assert_serves(first, "continues")
    finally:
        first.kill()
        unmount(second.path)


#: A program that takes the lock, then leaves it to a child that it forks without the server's hooks.
LEAVES_ITS_LOCK = """
import os, sys, time
from pathlib import Path
from mendflow_server.store.sqlite.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.take()
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux, because other systems do not report the holder of a lock"
)
async def test_refusal_names_the_process_that_has_the_lock_and_not_the_dead_one_that_took_it(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    taker = subprocess.Popen(  # noqa: ASYNC220 - it is only read from, and killed
        [sys.executable, "-c", LEAVES_ITS_LOCK, str(path)], stdout=subprocess.PIPE, env=environment
    )
    assert taker.stdout is not None
    child = int(taker.stdout.readline())
    try:
        taker.kill()
        taker.wait()
        store = SqliteStore(path)
        with pytest.raises(StoreRefused) as refusal:
            await store.open()
        await store.close()
        assert f"locked by another process ({child})" in str(refusal.value)
        assert f"kill {child}" in str(refusal.value)
        assert str(taker.pid) not in str(refusal.value)
    finally:
        os.kill(child, signal.SIGKILL)
        taker.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, because it looks into /proc")
async def test_sqlites_own_locks_stay_while_a_second_store_in_the_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    before = posix_locks(path)
    assert before
    (tmp_path / "link.db").symlink_to(path)
    refused = SqliteStore(tmp_path / "link.db")
    with pytest.raises(StoreRefused):
        await refused.open()
    await refused.close()
    assert posix_locks(path) >= before
    await store.close()
    assert not posix_locks(path)


def posix_locks(path: Path) -> set[str]:
    """Return the fcntl locks that this process has on the file."""
    inode = path.stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {
        " ".join(fields[1:])
        for fields in lines
        if fields[1] == "POSIX" and fields[4] == str(os.getpid()) and fields[5].endswith(f":{inode}")
    }
