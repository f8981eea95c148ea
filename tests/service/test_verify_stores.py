"""`mendflow verify` reads a store in any condition, and changes nothing in it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.factory import inspect_store
from tests.support.verifying import (
    AUTHORIZE,
    OLD,
    SECONDS,
    VERIFY,
    environment,
    files,
    names,
    run,
    serving_orders,
    source,
    start,
    url,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """Run a server with an order that waits for its approval."""
    with serving_orders(tmp_path) as process:
        yield process


@pytest.mark.parametrize("life", ["stopped", "killed", "copied without shared memory", "a link"])
def test_a_store_without_a_server_is_left_as_it_was(server: ServerProcess, life: str) -> None:
    server.terminate() if life in ("stopped", "a link") else server.kill()
    place = url(server)
    if life == "a link":
        (server.directory / "elsewhere").mkdir()
        (server.directory / "elsewhere/link.db").symlink_to(server.store)
        place = f"sqlite:///{server.directory / 'elsewhere/link.db'}"
    if life == "copied without shared memory":
        (server.directory / "mendflow.db-shm").unlink()
    before, around = files(server.directory), names(server.directory)
    if life == "killed":
        assert len(before["mendflow.db-wal"][1]) > 0
    steps = list(server.journal)
    done = run(server.directory, "renamed", "--store", place)
    assert done.returncode == 1, done.stderr
    after = files(server.directory)
    if life.startswith("copied"):
        # SQLite cannot read a log without the shared memory file.
        after.pop("mendflow.db-shm", None)
        assert after == before
    else:
        assert after == before
        assert names(server.directory) == around
    assert not (server.directory / "verified.txt").exists()
    assert server.journal == steps
    # A server can still use the store.
    server.start()


def test_a_store_with_a_server_is_read_without_a_write(server: ServerProcess) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)  # type: ignore[union-attr] # The server writes a sign of life regularly.
    try:
        before = files(server.directory)
        done = run(server.directory, "renamed", "--store", url(server))
        assert done.returncode == 1, done.stderr
        assert files(server.directory) == before
    finally:
        os.kill(server.process.pid, signal.SIGCONT)  # type: ignore[union-attr] # as above
    assert not (server.directory / "verified.txt").exists()
    # The inspection did not disturb the server.
    start(server, "order", "order-2")
    assert "2 would pause" in run(server.directory, "renamed", "--store", url(server)).stdout
    assert server.terminate() == 0


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"),
    reason="needs setpriv, because root may write to read-only directories",
)
@pytest.mark.parametrize("life", ["stopped", "killed", "running"])
def test_a_store_in_a_read_only_directory_is_read(server: ServerProcess, life: str) -> None:
    if life == "stopped":
        server.terminate()
    elif life == "killed":
        server.kill()
    for path in server.directory.iterdir():
        path.chmod(0o444)
    server.directory.chmod(0o555)
    without = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"] if os.geteuid() == 0 else []
    try:
        probe = [*drop, "touch", str(server.directory / "new")]
        assert subprocess.run(probe, capture_output=True, check=False).returncode != 0
        done = subprocess.run(
            [*drop, *VERIFY, "renamed", "--store", url(server)],
            env=environment(server.directory),
            cwd=server.directory,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
    finally:
        server.directory.chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("1 open workflow: 1 would pause\n"), done.stderr


def test_a_server_that_starts_during_an_inspection_is_noticed(server: ServerProcess) -> None:
    server.terminate()
    inspector = inspect_store(url(server))
    try:
        assert inspector.count_open() == 1
        server.start()
        start(server, "order", "order-2", "order-3")
        assert inspector.count_open() == 3
        server.kill()
        assert inspector.count_open() == 3
        server.start()
        start(server, "order", "order-4")
        assert inspector.count_open() == 4
        server.terminate()
        assert inspector.count_open() == 4
        server.start()
    finally:
        inspector.close()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (["--store", "sqlite:///missing.db"], "does not exist"),
        (["--store", "sqlite:///."], "is a directory"),
        (["--store", "mongodb://x"], "sqlite:///relative.db"),
        (["--store", "sqlite:///foreign.db"], "another program's database"),
        (["--store", "sqlite:///empty.db"], "no server has used it"),
        (["--store", "sqlite:///text.db"], "not a database"),
        (["--store", "sqlite:///newer.db"], "newer version"),
        ([], "--store URL or --server"),
        (["--store", "sqlite:///x.db", "--server", "x"], "not both"),
    ],
)
def test_a_store_that_cannot_be_read_exits_2_in_one_line(tmp_path: Path, place: list[str], words: str) -> None:
    (tmp_path / "shop.py").write_text(source(AUTHORIZE, OLD), encoding="utf-8")
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database at all\n" * 100, encoding="utf-8")
    for name, statements in (
        ("foreign", "CREATE TABLE t (a)"),
        ("newer", "CREATE TABLE t (a); PRAGMA application_id = 0x4D464C57; PRAGMA user_version = 99"),
    ):
        connection = sqlite3.connect(tmp_path / f"{name}.db")
        connection.executescript(statements)
        connection.close()
    before = names(tmp_path)
    done = run(tmp_path, "shop", *place)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert words in done.stderr
    assert sum(line.lower().startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == before


def test_a_damaged_history_counts_as_one_that_would_pause_and_the_others_are_verified(server: ServerProcess) -> None:
    start(server, "order", "order-2", "order-3")
    server.terminate()
    connection = sqlite3.connect(server.store)
    with connection:
        key = "(SELECT key FROM workflows WHERE workflow_id = ?)"
        connection.execute(f"UPDATE events SET bytes = x'ff' WHERE sequence = 2 AND key = {key}", ("order-2",))
        connection.execute(f"UPDATE events SET bytes = x'0801fa3f00' WHERE sequence = 1 AND key = {key}", ("order-3",))
    connection.close()
    done = run(server.directory, "shop", "--store", url(server))
    assert done.returncode == 1, done.stderr
    assert "the history cannot be read" in done.stdout
    assert "a kind that this version does not know" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 open workflows: 2 would pause, 1 would continue"
