"""A server on PostgreSQL, as a process: the database restarts, is away, or has another server, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from tests.crash.test_forks import orphans_end
from tests.support.postgres import Postgres, postgres_server
from tests.support.servers import ServerProcess, free_port, serving_process, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.proof

__all__ = ["orphans_end"]

SECRET = "only-the-database-may-know"
QUICK = {
    "MENDFLOW_COMMIT_AGE_LIMIT": "1",
    "MENDFLOW_PROBE_INTERVAL": "0.2",
    "MENDFLOW_GOOD_PROBES": "1",
}


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A database of its own, which a test may stop."""
    with postgres_server(fsync=True) as server:
        yield server


async def health(server: ServerProcess, code: int) -> list[str]:
    """Wait for a status of the health, and return its reasons."""

    def is_so() -> bool:
        return server.health()[0] == code

    assert await until(is_so, 30.0), server.health()
    found: list[str] = server.health()[1].get("reasons", [])
    return found


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_of_the_database_loses_and_repeats_nothing(
    database: Postgres, tmp_path: Path, mode: str
) -> None:
    url = database.url(password=SECRET, tcp=True)
    names = [f"order{number}" for number in range(12)]
    with serving_process(tmp_path, url=url, environment=QUICK) as server:
        async with Client(server.grpc_address) as client:
            for name in names:
                await client.start("everything", name, id=name)
            # Some are in a sleep, some in a step, some in a wait, some have not begun.
            await asyncio.to_thread(database.stop, mode)
            signals = [asyncio.create_task(client.handle(name).signal("go", "now")) for name in names[:3]]
            reasons = await health(server, 503)
            assert "PostgreSQL" in "\n".join(reasons), reasons
            await asyncio.to_thread(database.start)
            await health(server, 200)
            await asyncio.gather(*signals)
            for name in names[3:]:
                await client.handle(name).signal("go", "now")
            for name in names:
                seen = await asyncio.wait_for(client.handle(name).result(), 60)
                assert seen[-1].endswith("3]"), seen
        assert server.terminate() == 0
    found = await database.fetch("SELECT state, count(*) FROM workflows GROUP BY state")
    assert [(state, count) for state, count in found] == [(7, len(names))]
    # The server lived on, so it ran each step once.
    notes = [line.rsplit(" ", 1)[-1] for line in server.journal if line.startswith("note_down ")]
    assert len(notes) == len(set(notes))
    assert {f"{name}-{part}" for name in names for part in "ab"} <= set(notes)
    # Each history has every event once, and each step completed once.
    assert not await database.fetch(
        "SELECT key FROM workflows AS w WHERE last_sequence <> (SELECT count(*) FROM events WHERE events.key = w.key)"
    )
    assert not await database.fetch("SELECT id FROM inbox")
    text = (tmp_path / "server.log").read_text(encoding="utf-8")
    assert "postgres:***@127.0.0.1" in text
    assert SECRET not in text
    assert "commit_recovered" in text or "store_available" in text


async def test_a_killed_server_is_followed_by_one_that_continues(database: Postgres, tmp_path: Path) -> None:
    url = database.url()
    with serving_process(tmp_path, url=url) as server:
        async with Client(server.grpc_address) as client:
            names = [f"order{number}" for number in range(10)]
            for name in names:
                await client.start("everything", name, id=name)
            server.kill()
            server.start()
            for name in names:
                await client.handle(name).signal("go", "now")
            for name in names:
                assert (await asyncio.wait_for(client.handle(name).result(), 60))[-1].endswith("3]")


def refused(tmp_path: Path, url: str) -> str:
    """Start a server that cannot start, and return the one line that it prints."""
    command = [sys.executable, "-m", "mendflow.cli", "serve", "tests.support.workflows", "--store", url]
    command += ["--grpc-address", f"127.0.0.1:{free_port()}", "--http-address", f"127.0.0.1:{free_port()}"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    assert SECRET not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_start_with_the_database_away_says_what_to_do(tmp_path: Path) -> None:
    line = refused(tmp_path, f"postgresql://me:{SECRET}@127.0.0.1:{free_port()}/mendflow")
    assert "postgresql://me:***@127.0.0.1" in line
    assert "no database answers there; start PostgreSQL" in line


@pytest.mark.parametrize("command", ["backup", "verify"])
def test_commands_that_read_a_file_say_what_to_use_instead(tmp_path: Path, command: str) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:1/mendflow"
    what = [str(tmp_path / "copy.db")] if command == "backup" else ["tests.support.workflows"]
    done = subprocess.run(
        [sys.executable, "-m", "mendflow.cli", command, *what, "--store", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert ("pg_dump" if command == "backup" else "--server") in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_sqlite_and_the_client_do_not_import_asyncpg() -> None:
    program = (
        "import json, sys\n"
        "import mendflow, mendflow.cli, mendflow_server.app\n"
        "from mendflow_server.store.factory import open_store\n"
        "open_store('sqlite:///a.db')\n"
        "print(json.dumps('asyncpg' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) is False


def test_a_server_without_the_extra_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['asyncpg'] = None\n"
        "from mendflow_server.store.factory import open_store\n"
        "open_store('postgresql://host/db')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "install mendflow[server,postgres]" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, because its workflow looks into /proc")
@pytest.mark.parametrize("how", ["executor", "process"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_killed_servers_children_do_not_keep_its_lock(
    postgres: Postgres, tmp_path: Path, how: str, loop: str
) -> None:
    environment = {"MENDFLOW_EVENT_LOOP": loop}
    url = postgres.url(postgres.schema())
    with serving_process(tmp_path, modules=("fork_workflows",), url=url, environment=environment) as server:
        async with Client(server.grpc_address) as client:
            pids = await client.run("orphans", how)
            server.kill()
            for pid in pids:
                os.kill(pid, 0)  # It outlives the server.
            server.start()
            assert await client.run("looks", "os.fork") == "os.fork"
