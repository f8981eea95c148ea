"""`mendflow verify` of thousands of workflows: each once, in little memory, with a bar that can be interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import textwrap
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.servers import ServerProcess
from tests.support.verifying import SECONDS, VERIFY, client_of, environment, run, source, url, write
from tests.support.workflow_states import at_rest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mendflow import Client

pytestmark = pytest.mark.proof

MANY = 2_500


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server with thousands of workflows that sleep."""
    process = ServerProcess(tmp_path_factory.mktemp("many"), modules=("naps",))
    write(process, "naps", source("@workflow\nasync def nap(id: str):\n    await sleep(days=30)\n    await ship(id)\n"))
    write(process, "renamed", source("@workflow\nasync def nap(id: str):\n    await sleep(days=30, key='rest')\n"))
    process.start()

    async def begin(client: Client) -> None:
        handles: list[Any] = await client.start_many("nap", [str(number) for number in range(MANY)])
        assert len(handles) == MANY
        for handle in handles[-3:]:
            await at_rest(client, handle.id)

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
