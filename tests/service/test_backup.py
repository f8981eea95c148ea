"""`mendflow backup`: a consistent copy of a live store, which can be served."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from mendflow.errors import WorkflowNotFound
from tests.store.test_purging import older_store
from tests.support.command_line import as_text, run_command
from tests.support.promises import read_store
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from mendflow.v1 import event_pb2


def backed_up(source: Path, destination: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = ["backup", "--store", f"sqlite:///{source}", *options, str(destination)]
    return as_text(run_command(arguments, {}, directory=source.parent))


async def history(client: Client, workflow_id: str) -> list[event_pb2.Event]:
    return [event async for event in client.handle(workflow_id).events()]


async def test_a_copy_made_under_load_is_one_state_and_can_be_served(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    source.mkdir()
    other.mkdir()
    with serving_process(source) as server:
        async with Client(server.grpc_address) as client:
            await client.start("wait_for", "someone", id="waits")
            for number in range(200):
                await client.run("three", "x", id=f"before-{number}")
            going = True

            async def load(lane: int) -> int:
                number = 0
                while going:
                    await client.run("three", "x", id=f"{lane}-{number}")
                    number += 1
                return number

            lanes = [asyncio.create_task(load(lane)) for lane in range(8)]
            done = await asyncio.to_thread(backed_up, server.store, other / "mendflow.db", "--json")
            going = False
            made = sum(await asyncio.gather(*lanes))
            assert made, "the server worked during the copy"
            assert (done.returncode, done.stderr) == (0, "")
            before = {each.workflow_id: await history(client, each.workflow_id) async for each in client.list()}
    said = json.loads(done.stdout)
    assert 201 <= said["workflows"] <= len(before)
    assert [path.name for path in other.iterdir()] == ["mendflow.db"], "and no temporary file"
    copied = read_store(other / "mendflow.db").histories
    assert len(copied) == said["workflows"]
    for workflow_id, events in copied.items():
        assert events == before[workflow_id][: len(events)], "each history is as it was at one moment"
    with serving_process(other) as server:
        async with Client(server.grpc_address) as client:
            for number in range(200):
                assert await history(client, f"before-{number}") == before[f"before-{number}"]
            for workflow_id in copied.keys() - {"waits"}:
                assert await client.handle(workflow_id).result() is not None
            await client.signal("waits", "go", "now")
            assert await client.handle("waits").result() == "someone: now"


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The store of a server that has stopped."""
    older_store(tmp_path / "mendflow.db")
    return tmp_path / "mendflow.db"


def test_a_file_without_a_server_is_copied_and_not_touched(stopped: Path, tmp_path: Path) -> None:
    stopped.chmod(0o640)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    (tmp_path / "copies").mkdir()
    done = backed_up(stopped, tmp_path / "copies" / "copy.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 workflows, 1 of them open, 6." in done.stdout
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir() if path.is_file()) == before
    copy = tmp_path / "copies" / "copy.db"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert copy.stat().st_nlink == 1, "a server refuses a file with two names"
    connection = sqlite3.connect(copy)
    # An older version's file cannot give pages back; its copy can.
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    connection.close()


def test_a_relative_destination_is_in_the_working_directory(stopped: Path, tmp_path: Path) -> None:
    assert backed_up(stopped, "copy.db").returncode == 0
    assert (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("destination", "says"),
    [
        ("mendflow.db", "exists; choose another destination"),
        ("there", "exists; choose another destination"),
        ("dangling", "exists; choose another destination"),
        ("missing/copy.db", "does not exist; create it"),
    ],
)
def test_a_destination_that_cannot_be_used_is_refused(
    stopped: Path, tmp_path: Path, destination: str, says: str
) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = backed_up(stopped, destination)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there").read_text() == "mine"


def test_a_store_that_cannot_be_copied_is_refused(stopped: Path, tmp_path: Path) -> None:
    for name, content, says in (
        ("missing.db", None, "does not exist"),
        ("empty.db", b"", "is empty, because no server has used it yet"),
        ("text.db", b"no database" * 500, "not a database"),
        ("damaged.db", stopped.read_bytes()[: stopped.stat().st_size // 2], "damaged"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        done = backed_up(tmp_path / name, tmp_path / "copy.db")
        assert done.returncode in (1, 2), done
        assert says in done.stderr
        assert "Traceback" not in done.stderr
        assert not [path for path in tmp_path.iterdir() if "copy" in path.name]


def test_a_folder_that_takes_no_file_is_an_error(stopped: Path) -> None:
    done = backed_up(stopped, "/proc/copy.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot write /proc/copy.db" in done.stderr


def test_a_killed_server_leaves_a_store_that_can_be_copied(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.start()

    async def work() -> None:
        async with Client(server.grpc_address) as client:
            await client.run("three", "x", id="w")
            with pytest.raises(WorkflowNotFound):
                await client.get("other")

    try:
        asyncio.run(work())
    finally:
        server.kill()
    names = sorted(path.name for path in tmp_path.iterdir())
    done = backed_up(server.store, tmp_path / "copy.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 workflows, 0 of them open" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "copy.db"])
