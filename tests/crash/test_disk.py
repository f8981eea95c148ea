"""A disk that is full, slow, damaged or somebody else's: nothing acknowledged is lost; the message says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from mendflow.errors import ServerUnavailable
from tests.conftest import ServerProcess, serving_process
from tests.promises import Evidence, Told, broken, read_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: So that the health tells, and a caller is told, in less than a second.
SOON = {
    "MENDFLOW_COMMIT_AGE_LIMIT": "0.5",
    "MENDFLOW_PROBE_INTERVAL": "0.2",
    "MENDFLOW_COMMIT_PATIENCE": "0.5",
}
#: A file that the tests damage: so many workflows of so many bytes each.
MANY, LONG = 40, 5_000


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving_process(tmp_path, environment=SOON) as server:
        yield server


@contextlib.contextmanager
def full(server: ServerProcess) -> Iterator[None]:
    """The kernel refuses whatever would make a file longer than the store's log is now."""
    assert server.process is not None
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    size = server.store.with_name(f"{server.store.name}-wal").stat().st_size
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)


@contextlib.contextmanager
def held(server: ServerProcess) -> Iterator[None]:
    """Another program holds the write lock: to the server a disk that takes for ever."""
    with contextlib.closing(sqlite3.connect(server.store, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield
        other.execute("rollback")


async def health_is(server: ServerProcess, status: int) -> str:
    """Wait until the health has this status; answer what it says."""
    for _ in range(500):
        code, body = await asyncio.to_thread(server.health)
        if code == status:
            return str(body)
        await asyncio.sleep(0.02)
    raise AssertionError(f"/health does not get {status}: {server.health()}")


@pytest.mark.parametrize(("trouble", "says"), [(full, "disk"), (held, "lock")])
async def test_a_disk_that_does_not_take_more_for_a_while(impatient: ServerProcess, trouble: object, says: str) -> None:
    server = impatient
    told = []
    assert callable(trouble)
    async with Client(server.grpc_address, timeout=8.0, retry_for=0.0) as client:
        waiting = await client.start("wait_for", "before", id="before")
        told.append(Told("started", "before", (await waiting.get()).uid))
        with trouble(server):
            refused = 0
            for number in range(20):
                try:
                    started = await client.start("three", "x", id=f"during-{number}")
                    told.append(Told("started", started.id, (await started.get()).uid))
                except ServerUnavailable:
                    refused += 1
                if refused > 2:
                    break
            assert refused > 2, "the disk took everything"
            reasons = await health_is(server, 503)
            assert (await asyncio.to_thread(server.health, "/health/live"))[0] == 200
            assert (await waiting.get()).workflow_id == "before", "reading goes on"
        await health_is(server, 200)
        await client.signal("before", "go", "on", request_id="go")
        told.append(Told("signalled", "before", "go"))
        assert await waiting.result() == "before: on"
        await client.start("three", "x", id="after")
        # What was not acknowledged may be there all the same; then it comes to its end like any other.
        for workflow in [each async for each in client.list()]:
            await client.handle(workflow.workflow_id).result()
    assert server.terminate() == 0
    assert not broken(Evidence(read_store(server.store), told=told))
    messages = [line for line in server.log if line["event"] == "store_does_not_commit"]
    assert says in reasons + str(messages), (reasons, messages)
    assert any(line["event"] == "store_commits_again" for line in server.log)


async def fill(server: ServerProcess) -> None:
    """Let workflows end, and the server after them."""
    async with Client(server.grpc_address) as client:
        for number in range(MANY):
            await client.run("echo", f"{number}" * LONG, id=f"w-{number}")
    assert server.terminate() == 0


@pytest.mark.parametrize("damage", ["overwritten", "truncated"])
async def test_a_file_that_is_no_store_any_more_is_refused(server_process: ServerProcess, damage: str) -> None:
    server = server_process
    await fill(server)
    content = server.store.read_bytes()
    left = b"\x55" * 100 + content[100:] if damage == "overwritten" else content[: len(content) // 2 // 4096 * 4096]
    server.store.write_bytes(left)
    before = (server.directory / "server.log").stat().st_size
    server.start(wait=False)
    assert server.wait_died() == 1
    words = (server.directory / "server.log").read_text("utf-8")[before:]
    assert str(server.store) in words
    assert "damaged" in words or "not a" in words, words
    assert server.store.read_bytes() == left, "it is left as it is"


async def test_of_a_file_with_a_hole_the_rest_is_served(server_process: ServerProcess) -> None:
    server = server_process
    await fill(server)
    content = bytearray(server.store.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = b"\x55" * 8192
    server.store.write_bytes(content)
    server.start()
    lost = 0
    async with Client(server.grpc_address, timeout=5.0, retry_for=0.0) as client:
        for number in range(MANY):
            try:
                assert await client.handle(f"w-{number}").result() == f"{number}" * LONG
            except ServerUnavailable:
                lost += 1
        assert await client.run("echo", "x") == "x"
    assert 0 < lost < MANY / 2


class OnADisk(ServerProcess):
    """A server whose store lies on a file system of its own."""

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.directory / "disk" / "mendflow.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that can be mounted anew."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def remount(disk: Path, mode: str) -> None:
    """Make it read-only, or not."""
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


async def test_a_read_only_disk_is_refused_until_it_takes_writes_again(tmp_path: Path, disk: Path) -> None:
    server = OnADisk(tmp_path)
    server.start()
    async with Client(server.grpc_address) as client:
        await client.start("wait_for", "open", id="open")
    server.kill()
    remount(disk, "ro")
    server.start(wait=False)
    assert server.wait_died() == 1
    words = (tmp_path / "server.log").read_text("utf-8")
    assert f"{server.store}.lock cannot be opened: Read-only file system; make it writable for this server" in words
    remount(disk, "rw")
    server.start()
    async with Client(server.grpc_address) as client:
        await client.signal("open", "go", "on")
        assert await client.handle("open").result() == "open: on"
    assert server.terminate() == 0
    assert not broken(Evidence(read_store(server.store)))


async def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path, server_process: ServerProcess) -> None:
    async with Client(server_process.grpc_address) as client:
        handle = await client.start("holds", 0.5)
        second = ServerProcess(tmp_path)
        second.start(wait=False)
        assert second.wait_died() == 1
        assert await handle.result() == "held"
    said = (tmp_path / "server.log").read_text("utf-8")
    assert "in use by another server" in said
    assert "give this one another file" in said
