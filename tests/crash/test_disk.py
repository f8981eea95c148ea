"""A disk that is full, fails, is read-only or locked: nothing acknowledged is lost, and messages say what to do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mendflow.v1 import workflow_pb2
from mendflow_server.execution.crash_marker import CrashMarker
from mendflow_server.store.errors import StoreUnavailable
from tests.crash.volumes import (
    OnAVolume,
    breaches,
    calling,
    full,
    locked,
    read_only,
    refuses_to_grow,
)
from tests.support.mounting import fill, mount, small_disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.proof

SUCCEEDED = workflow_pb2.WORKFLOW_STATE_SUCCEEDED


class Trouble(NamedTuple):
    """A disk's behaviour, and the message about it."""

    comes: Callable[[OnAVolume], AbstractContextManager[None]]
    advice: str
    #: Whether it needs a file system of its own.
    mounted: bool = False


TROUBLES = [
    Trouble(full, "disk full; free some space", mounted=True),
    Trouble(refuses_to_grow, "disk I/O error; check the kernel log"),
    Trouble(read_only, "the file is read-only; make it and its directory writable for the server"),
    Trouble(locked, "the file is locked by another program; stop that program"),
]


@pytest.fixture
def server(request: pytest.FixtureRequest, trouble: Trouble) -> OnAVolume:
    """Return a server whose disk can have this trouble."""
    server: OnAVolume = request.getfixturevalue("on_a_disk" if trouble.mounted else "on_a_directory")
    return server


@pytest.mark.parametrize("trouble", TROUBLES, ids=[trouble.comes.__name__ for trouble in TROUBLES])
async def test_commits_refused_by_the_disk_are_reported_and_resume_without_restart(
    server: OnAVolume, trouble: Trouble
) -> None:
    server.start()
    async with calling(server) as caller:
        await caller.start("wait_for", "before", "before")
        await caller.start("holds", 0.3, "held")
        with trouble.comes(server):
            await caller.start_until_refused("x")
            reasons = await server.says(503, trouble.advice)
            assert str(server.store) in "\n".join(reasons)
            await server.says(200, path="/health/live")
            assert (await caller.client.get("before")).workflow_id == "before", "reading continues"
        await server.says(200)
        await caller.signal("before")
        await caller.start("three", "x", "after")
        there = await caller.all_end()
        assert {"before", "held", "after"} <= set(there)
        assert {reply.detail.state for reply in caller.replies if reply.kind == "result"} == {SUCCEEDED}
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)
    assert any(trouble.advice in error for error in server.errors("commit_failed")), server.words
    assert any(line["event"] == "commit_recovered" for line in server.log)
    assert "Traceback" not in server.words


@pytest.mark.parametrize("before", ["a new store", "a killed server's"])
async def test_a_full_disk_ends_the_start_with_advice_and_loses_nothing(on_a_disk: OnAVolume, before: str) -> None:
    server = on_a_disk
    replies = []
    if before != "a new store":
        server.start()
        async with calling(server) as caller:
            await caller.start("wait_for", "before", "before")
            replies += caller.replies
        server.kill()
        # The other workflows' rows must be written anew as well.
        for name in (".note", ".lock", "-shm"):
            server.store.with_name(server.store.name + name).unlink()
    ballast = fill(server.volume)
    words = server.refused()
    assert str(server.store) in words
    assert "free some space" in words
    ballast.unlink()
    server.start()
    async with calling(server) as caller:
        await caller.start("three", "x", "after")
        if replies:
            await caller.signal("before")
        assert len(await caller.all_end()) == 1 + len(replies)
        replies += caller.replies
    assert server.terminate() == 0
    assert not breaches(server, replies)


def test_note_file_without_disk_space_is_refused_with_advice(tmp_path: Path) -> None:
    with small_disk(tmp_path):
        ballast = fill(tmp_path)
        path = tmp_path / "mendflow.db.note"
        with pytest.raises(StoreUnavailable) as refusal:
            CrashMarker(path)
        assert str(refusal.value) == (f"{path} cannot be written: No space left on device; free some space on the disk")
        ballast.unlink()
        CrashMarker(path).close()


async def test_a_start_waits_for_a_lock_that_another_program_holds(on_a_directory: OnAVolume) -> None:
    server = on_a_directory
    server.start()
    async with calling(server) as caller:
        await caller.start("holds", 0.5, "cut-off")
        await caller.start("wait_for", "waits", "waits")
        server.kill()
        with locked(server):
            server.start(wait=False)
            await server.says(503, "the file is locked by another program; stop that program")
            await server.says(200, path="/health/live")
        await server.says(200)
        await caller.signal("waits")
        assert sorted(await caller.all_end()) == ["cut-off", "waits"]
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)
    (error,) = server.errors("store_unavailable")
    assert "the file is locked by another program; stop that program" in error
    assert "Traceback" not in server.words


@pytest.mark.parametrize("moment", ["serving", "still at its start"])
async def test_a_drain_ends_in_order_though_the_store_takes_nothing(on_a_directory: OnAVolume, moment: str) -> None:
    server = on_a_directory
    server.environment["MENDFLOW_DRAIN_TIMEOUT"] = "1"
    server.start()
    async with calling(server) as caller:
        await caller.start("holds", 0.1, "held")
        await caller.start("wait_for", "waits", "waits")
        if moment != "serving":
            server.kill()
        with locked(server):
            if moment != "serving":
                server.start(wait=False)
                await server.says(503, "the file is locked by another program")
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait_died) == 0
        assert "Traceback" not in server.words
        assert server.log[-1]["event"] == "drained"
        assert len(server.errors("drain_not_recorded")) == (moment == "serving")
        server.start()
        await caller.signal("waits")
        assert sorted(await caller.all_end()) == ["held", "waits"]
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)


async def test_a_read_only_disk_is_refused_until_it_takes_writes_again(on_a_disk: OnAVolume) -> None:
    server = on_a_disk
    server.start()
    async with calling(server) as caller:
        await caller.start("wait_for", "open", "open")
        server.kill()
        mount(server.volume, "-o", "remount,ro")
        words = server.refused()
        assert (
            f"cannot open lock file {server.store}.lock: Read-only file system; make it writable for the server"
            in words
        )
        mount(server.volume, "-o", "remount,rw")
        server.start()
        await caller.signal("open")
        assert await caller.end("open") == SUCCEEDED
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)


#: A composition root whose table of mounts shows the store on a network file system. No real one is available here.
ON_A_NETWORK = """
import functools, sys
from pathlib import Path
from mendflow.cli import main
from mendflow_server.app import App, Parts
from mendflow_server.store.factory import open_store
from mendflow_server.store.sqlite.store import SqliteStore
sqlite = functools.partial(SqliteStore, mountinfo=Path(sys.argv.pop(1)))
parts = Parts(open_store=functools.partial(open_store, sqlite=sqlite))
main(obj=functools.partial(App, parts=parts))
"""


def test_a_network_file_system_ends_the_start_with_advice(on_a_directory: OnAVolume) -> None:
    server = on_a_directory
    table = server.directory / "mountinfo"
    table.write_text(f"36 25 0:32 / {server.volume.resolve()} rw shared:1 - nfs4 host:/export rw\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ON_A_NETWORK, table, "serve", "tests.support.load_workflows", "--store", f"sqlite:///{server.store}"],
        capture_output=True, text=True, check=False, timeout=60, cwd=server.directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MENDFLOW_TEST_JOURNAL": str(server.effects)},
    )  # fmt: skip
    assert done.returncode == 1
    what = f"{server.store} is on a network file system (nfs4), where SQLite loses data"
    assert done.stderr.splitlines() == [f"error: {what}; use a file on a local disk"]
    assert not any(server.volume.iterdir())


async def test_second_server_is_refused_and_the_first_continues(on_a_directory: OnAVolume) -> None:
    server = on_a_directory
    server.start()
    assert server.process is not None
    async with calling(server) as caller:
        await caller.start("holds", 0.5, "held")
        second = OnAVolume(server.directory, grpc_port=0, http_port=0)
        second.start(wait=False)
        assert second.wait_died() == 1
        assert (
            f"error: {server.store} is in use by another server (process {server.process.pid}); "
            "stop that server or use another file"
        ) in server.words.splitlines()
        assert await caller.end("held") == SUCCEEDED
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)
