"""`mendflow verify`: its predictions from a file and from a server, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from mendflow.v1 import workflow_pb2
from mendflow_server.store.factory import inspect_store
from tests.support.command_line import as_text, run_command
from tests.support.servers import ROOT, SUPPORT, ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: `mendflow verify`, also where the package was installed before the command existed.
VERIFY = [
    sys.executable,
    "-c",
    "from mendflow_server.cli.verify import verify; verify(prog_name='mendflow verify')",
]
SECONDS = 60

PRELUDE = """
import asyncio, os
from mendflow import *

def effect(name):
    with open(os.environ["MENDFLOW_TEST_JOURNAL"], "a") as journal:
        journal.write(name + "\\n")

@step
async def reserve(order: str): effect("reserve")
@step
async def ship(order: str): effect("ship")
async def nothing(): pass
"""
AUTHORIZE = "@step\nasync def authorize(order: str): effect('authorize')\n"
AUTHORISE = "@step\nasync def authorise(order: str): effect('authorise')\n"
KEPT = "@step(name='authorize')\nasync def authorise(order: str): effect('authorise')\n"
OLD = """
@workflow
async def order(id: str):
    await reserve(id)
    await authorize(id)
    await gather(wait_signal("approve"), nothing())
    await ship(id)
"""
RENAMED = OLD.replace("authorize", "authorise")
REMOVED = OLD.replace("    await authorize(id)\n", "")
MARKED = OLD.replace(
    "    await authorize(id)\n",
    "    await ship.with_options(inserted=True, key='first')(id)\n    await authorize(id)\n",
)


def source(*parts: str) -> str:
    return PRELUDE + "".join(parts)


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `mendflow verify` in a directory, piped, until it exits."""
    variables = {"MENDFLOW_TEST_JOURNAL": str(directory / "verified.txt"), **variables}
    return as_text(run_command(["verify", *arguments], variables, directory=directory))


def environment(directory: Path, **variables: str) -> dict[str, str]:
    paths = [str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # Two versions of a module within one second would share their compiled code.
        "PYTHONDONTWRITEBYTECODE": "1",
        "MENDFLOW_TEST_JOURNAL": str(directory / "verified.txt"),
        **variables,
    }


def write(server: ServerProcess, name: str, text: str) -> None:
    (server.directory / f"{name}.py").write_text(text, encoding="utf-8")


def url(server: ServerProcess) -> str:
    return f"sqlite:///{server.store}"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return each file of a store with its modification time and its content."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.iterdir()
        if path.name.startswith("mendflow.db")
    }


async def at_rest(client: Client, *ids: str) -> None:
    moving = (workflow_pb2.WORKFLOW_STATE_PENDING, workflow_pb2.WORKFLOW_STATE_RUNNING)
    async with asyncio.timeout(20):
        for each in ids:
            while (await client.get(each)).state in moving:
                await asyncio.sleep(0.01)


def client_of(server: ServerProcess, call: Any) -> Any:
    async def with_client() -> Any:
        async with Client(server.grpc_address) as client:
            return await call(client)

    return asyncio.run(with_client())


def start(server: ServerProcess, workflow_type: str, *ids: str) -> None:
    async def begin(client: Client) -> None:
        for each in ids:
            await client.start(workflow_type, each, id=each)
        await at_rest(client, *ids)

    client_of(server, begin)


def serving(directory: Path) -> ServerProcess:
    """Start a server with an order that waits for its approval."""
    process = ServerProcess(directory, modules=("shop",), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    write(process, "shop", source(AUTHORIZE, OLD))
    write(process, "renamed", source(AUTHORISE, RENAMED))
    write(process, "kept", source(KEPT, RENAMED))
    write(process, "removed", source(REMOVED))
    write(process, "marked", source(AUTHORIZE, MARKED))
    process.start()
    start(process, "order", "order-1")
    return process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with an order that waits for its approval."""
    process = serving(tmp_path)
    yield process
    process.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Share one such server between tests that do not change it."""
    process = serving(tmp_path_factory.mktemp("shared"))
    yield process
    process.kill()


def test_a_renamed_step_is_predicted_from_a_running_server_and_from_its_file(server: ServerProcess) -> None:
    def check(*place: str) -> None:
        done = run(server.directory, "renamed", *place)
        assert done.returncode == 1, done.stderr
        head, why, *_ = done.stdout.splitlines()
        assert head == "order-1  order  WAITING  would pause"
        assert "step authorize (event " in why
        assert "step authorise" in why
        assert done.stdout.splitlines()[-1] == "1 open workflow: 1 would pause"
        kept = run(server.directory, "kept", *place)
        assert (kept.returncode, kept.stdout) == (0, "1 open workflow: 1 would continue\n"), kept.stderr

    check("--server", server.grpc_address)
    check("--store", url(server))
    server.terminate()
    check("--store", url(server))
    # The prediction comes true.
    server.modules = ("renamed",)
    server.start()

    async def approve(client: Client) -> workflow_pb2.Workflow:
        await client.signal("order-1", "approve")
        async with asyncio.timeout(20):
            while (found := await client.get("order-1")).state != workflow_pb2.WORKFLOW_STATE_PAUSED:
                await asyncio.sleep(0.01)
        return found

    explanation = client_of(server, approve).explanation
    assert explanation in run_before(server).stdout


def run_before(server: ServerProcess) -> subprocess.CompletedProcess[str]:
    done = run(server.directory, "renamed", "--store", url(server))
    assert "PAUSED  would stay PAUSED" in done.stdout
    resumed = run(server.directory, "kept", "--store", url(server))
    assert resumed.returncode == 0
    assert "order-1  order  PAUSED  would be resumed" in resumed.stdout
    return done


def test_a_removed_call_is_listed_as_waiting_and_passes(shared: ServerProcess) -> None:
    done = run(shared.directory, "removed", "--server", shared.grpc_address)
    assert done.returncode == 0, done.stderr
    head, calls, summary = done.stdout.splitlines()
    assert head.startswith("order-1  order  WAITING  would keep waiting")
    assert "step authorize (event " in calls
    assert summary.startswith("1 open workflow: 1 would keep waiting")


def test_a_marked_call_is_listed_with_the_calls_that_follow_and_passes(shared: ServerProcess) -> None:
    done = run(shared.directory, "marked", "--store", url(shared))
    assert done.returncode == 0, done.stderr
    head, starts, calls, summary = done.stdout.splitlines()
    assert head.startswith("order-1  order  WAITING  would first make calls that are marked as inserted")
    assert starts.strip() == "calls that are marked as inserted: step first"
    assert "step authorize (event " in calls
    assert summary.startswith("1 open workflow: 1 would first make calls")


def test_json_has_a_line_for_each_finding_and_a_summary(shared: ServerProcess) -> None:
    done = run(shared.directory, "renamed", "--store", url(shared), "--json")
    finding, summary = map(json.loads, done.stdout.splitlines())
    assert finding["workflow_id"] == "order-1"
    assert finding["verdict"] == "pauses"
    assert finding["state"] == "WAITING"
    assert summary["summary"]["open"] == 1
    assert summary["summary"]["pauses"] == 1
    assert summary["summary"]["passes"] is False
    removed = run(shared.directory, "removed", "--store", url(shared), "--json")
    assert json.loads(removed.stdout.splitlines()[0])["unclaimed"][0].startswith("step authorize (event ")


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


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
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


STATES = """
@workflow
async def order(id: str):
    await reserve(id)
    await wait_signal("approve")

@step(retry=RetryPolicy(max_attempts=1, on_exhaustion="pause"))
async def exhausts(): raise TransientError("no")

@workflow
async def exhausted(id: str):
    await reserve(id)
    await exhausts()

@workflow
async def cleaning(id: str):
    await reserve(id)
    try:
        await wait_signal("never")
    finally:
        await wait_signal("cleaned")

@workflow
async def other(id: str):
    await wait_signal("never")
"""
STATES_NEW = STATES[: STATES.index("@workflow\nasync def other")].replace("await reserve(id)", "await ship(id)")


def test_each_open_state_is_verified_and_foreign_types_are_counted_apart(server: ServerProcess) -> None:
    server.terminate()
    write(server, "shop", source(STATES))
    write(server, "states", source(STATES_NEW))
    server.start()
    start(server, "exhausted", "e")
    start(server, "other", "o-1", "o-2")
    start(server, "order", "done")
    start(server, "cleaning", "c")

    async def act(client: Client) -> None:
        await client.cancel("c")
        await client.signal("done", "approve")
        async with asyncio.timeout(20):
            while (await client.get("c")).state != workflow_pb2.WORKFLOW_STATE_CANCELLING:
                await asyncio.sleep(0.01)
            await client.get("done", wait=10)

    client_of(server, act)
    for place in (("--server", server.grpc_address), ("--store", url(server))):
        done = run(server.directory, "states", *place)
        assert done.returncode == 1, done.stderr
        lines = done.stdout.splitlines()
        assert "e  exhausted  PAUSED  would stay PAUSED" in lines
        assert "c  cleaning  CANCELLING  would be cancelled without clean-up" in lines
        assert "not served by these modules: 2 of type other" in lines
        assert not any(line.startswith("done ") for line in lines)
        assert lines[-1] == (
            "5 open workflows: 2 would pause, 1 would be cancelled without clean-up, 2 not served by these modules"
        )
    # A type that no module has does not make the command fail.
    write(server, "none", source("@workflow\nasync def unrelated(): pass\n"))
    assert run(server.directory, "none", "--store", url(server)).returncode == 0


RAISING = """
class Odd(BaseException):
    def __str__(self): raise ValueError("no text")

async def boom(error):
    raise error

@workflow
async def order(id: str):
    print("noise on standard output")
    await reserve(id)
    {}
"""
ENDINGS = {
    "exception": ("await authorize(id); await gather(wait_signal('approve'), boom(KeyError('lamp')))", 0,
        ["order-1  order  WAITING  would end", "    the code raised KeyError: 'lamp'", "1 open workflow: 1 would end"]),
    "base_exception": ("await authorize(id); await gather(wait_signal('approve'), boom(Odd()))", 0,
        ["    the code raised Odd"]),
    "exit": ("await authorize(id); await gather(wait_signal('approve'), boom(SystemExit(0)))", 0,
        ["    the code raised SystemExit: 0"]),
    "return_before_the_rest": ("await authorize(id)", 1, ["workflow returned before awaiting"]),
    "exception_before_the_rest": ("raise KeyError('lamp')", 1, ["workflow raised KeyError before awaiting"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
def test_code_that_raises_or_exits_does_not_end_the_command(shared: ServerProcess, name: str) -> None:
    body, code, words = ENDINGS[name]
    write(shared, name, source(AUTHORIZE, RAISING.format(body)))
    done = run(shared.directory, name, "--store", url(shared))
    assert done.returncode == code, done.stderr
    assert all(each in done.stdout for each in words), done.stdout
    assert "noise" not in done.stdout
    assert "Traceback" not in done.stderr


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


def test_missing_modules_and_servers_have_their_exit_codes(shared: ServerProcess) -> None:
    assert run(shared.directory, "not_there", "--store", url(shared)).returncode == 2
    write(shared, "raises", "raise ValueError('on purpose')")
    assert run(shared.directory, "raises", "--store", url(shared)).returncode == 2
    gone = run(shared.directory, "shop", "--server", f"127.0.0.1:{free_port()}")
    assert gone.returncode == 3, gone.stderr
    assert gone.stderr.startswith("error: ")


def test_variables_name_the_place_and_an_option_overrides_them(shared: ServerProcess) -> None:
    away = f"127.0.0.1:{free_port()}"
    assert run(shared.directory, "kept", MENDFLOW_SERVER=shared.grpc_address).returncode == 0
    assert run(shared.directory, "kept", MENDFLOW_STORE=url(shared)).returncode == 0
    assert run(shared.directory, "kept", "--store", url(shared), MENDFLOW_SERVER=away).returncode == 0
    both = run(shared.directory, "kept", MENDFLOW_STORE=url(shared), MENDFLOW_SERVER=away)
    assert both.returncode == 2
    assert "MENDFLOW_STORE and MENDFLOW_SERVER" in both.stderr


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


MANY = 2_500


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with thousands of workflows that sleep."""
    process = ServerProcess(tmp_path_factory.mktemp("many"), modules=("naps",))
    write(process, "naps", source("@workflow\nasync def nap(id: str):\n    await sleep(days=30)\n    await ship(id)\n"))
    write(process, "renamed", source("@workflow\nasync def nap(id: str):\n    await sleep(days=30, key='rest')\n"))
    process.start()

    async def begin(client: Client) -> None:
        handles: list[Any] = await client.start_many("nap", [str(number) for number in range(MANY)])
        assert len(handles) == MANY
        await at_rest(client, *[handle.id for handle in handles[-3:]])

    try:
        client_of(process, begin)
        yield process
    finally:
        process.kill()


def test_thousands_of_open_workflows_are_each_verified_once(many: ServerProcess) -> None:
    for place in (("--server", many.grpc_address), ("--store", url(many))):
        done = run(many.directory, "naps", *place)
        assert (done.returncode, done.stdout) == (0, f"{MANY} open workflows: {MANY} would continue\n"), done.stderr
        found = run(many.directory, "renamed", *place, "--json")
        assert found.returncode == 1
        lines = [json.loads(line) for line in found.stdout.splitlines()]
        assert len({line["workflow_id"] for line in lines[:-1]}) == MANY
        assert lines[-1]["summary"]["pauses"] == MANY


def test_memory_does_not_grow_with_the_number_of_workflows(many: ServerProcess, tmp_path: Path) -> None:
    program = VERIFY[2].replace(
        "verify(prog",
        "import atexit, resource, sys; atexit.register(lambda: print(resource.getrusage("
        "resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)); verify(prog",
    )
    few = ServerProcess(tmp_path, modules=("naps",))
    shutil.copy(many.directory / "naps.py", tmp_path)
    few.start()
    few.terminate()

    def peak(server: ServerProcess) -> int:
        done = subprocess.run(
            [*VERIFY[:2], program, "naps", "--store", url(server)],
            env=environment(many.directory), cwd=many.directory, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stderr.splitlines()[-1])

    # In KiB: 2,500 histories would take several times as much.
    assert peak(many) - peak(few) < 4_000


def test_a_terminal_gets_a_bar_and_an_interrupt_ends_it_cleanly(many: ServerProcess) -> None:
    slow = textwrap.dedent("""
        @workflow
        async def nap(id: str):
            import time
            time.sleep(0.02)
            await sleep(days=30)
    """)
    write(many, "slow", source(slow))
    terminal, its_side = pty.openpty()
    with subprocess.Popen(
        [*VERIFY, "slow", "--store", url(many)],
        env=environment(many.directory, TERM="xterm", COLUMNS="100"),
        cwd=many.directory,
        stdout=subprocess.PIPE,
        stderr=its_side,
    ) as process:
        os.close(its_side)
        written = b""
        limit = time.monotonic() + SECONDS
        while not re.search(rb"[1-9]/2500", written) and time.monotonic() < limit:
            written += os.read(terminal, 65536)
        process.send_signal(signal.SIGINT)
        try:
            while piece := os.read(terminal, 65536):
                written += piece
        except OSError:  # How a terminal reports that the other side has closed it.
            pass
        assert process.wait(SECONDS) == 130
    os.close(terminal)
    text = written.decode()
    assert "verifying" in text
    assert "error: interrupted; verified " in text
    assert "Traceback" not in text


def test_verify_is_a_command_of_mendflow() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        commands = tomllib.load(file)["project"]["entry-points"]["mendflow.commands"]
    assert commands["verify"] == "mendflow_server.cli.verify:verify"
