"""The server inside another program, and the programs of docs/embedding.md."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
import structlog

from mendflow import MendflowError, sleep, step, workflow
from mendflow.errors import DefinitionError
from mendflow.v1 import workflow_pb2
from mendflow_server.embedding import EmbeddedServer
from mendflow_server.store.errors import StoreError
from tests.support.servers import ROOT, free_port, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = ROOT / "docs/embedding.md"
FILE = re.compile(r"^`(?P<name>\w+\.py)`:\n\n```python\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@step
async def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@workflow
async def doubles(number: int) -> int:
    """Double a number after a while."""
    await sleep(0.01)
    return await double(number)


@workflow(name="doubles")
async def other_doubles(number: int) -> int:
    """Have the name of another workflow."""
    return number


def store(directory: Path) -> str:
    return f"sqlite:///{directory / 'embedded.db'}"


async def test_it_serves_in_this_loop_and_the_next_one_continues(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with EmbeddedServer([doubles], store=store(tmp_path)) as server:
        assert await server.client.run(doubles, 21) == 42
        assert server.grpc_address.startswith("127.0.0.1:")
        assert await until(lambda: server.health.ok)
        await server.client.start(doubles, 4, id="open")
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    async with EmbeddedServer([doubles], store=store(tmp_path)) as server:
        assert (await server.client.get("open", wait=10)).state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED


@pytest.fixture
def _structlog_as_at_the_start() -> Iterator[None]:
    """Take away what another test has configured."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_structlog_as_at_the_start")
async def test_its_log_goes_to_logging_with_its_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mendflow")
    async with EmbeddedServer([doubles], store=store(tmp_path)) as server:
        await server.client.run(doubles, 21, id="logged")
    [started] = [record for record in caplog.records if record.getMessage() == "workflow_started"]
    assert started.name == "mendflow.workflow"
    assert vars(started)["workflow_id"] == "logged"


async def test_a_second_server_on_the_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with EmbeddedServer([doubles], store=store(tmp_path)) as server:
        before = asyncio.all_tasks()
        with pytest.raises(StoreError):
            await EmbeddedServer([doubles], store=store(tmp_path)).__aenter__()
        assert await until(lambda: asyncio.all_tasks() <= before)
        assert await server.client.run(doubles, 1) == 2


async def test_misuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="two workflows have the name 'doubles'"):
        EmbeddedServer([doubles, other_doubles])
    server = EmbeddedServer([doubles, doubles], store=store(tmp_path))
    with pytest.raises(MendflowError, match="not started"):
        _ = server.client
    async with server:
        pass
    with pytest.raises(MendflowError, match="started before"):
        await server.__aenter__()


def written(directory: Path) -> None:
    """Write the files of the page."""
    for block in FILE.finditer(PAGE.read_text("utf-8")):
        (directory / block["name"]).write_text(block["text"], encoding="utf-8")


def answer(url: str, method: str, ended: Callable[[], int | None]) -> str:
    """Return the body of the answer, once the program listens."""
    while ended() is None:
        try:
            request = urllib.request.Request(url, method=method)
            with urllib.request.urlopen(request, timeout=10) as reply:
                text: str = reply.read().decode()
                return text
        except urllib.error.URLError:
            time.sleep(0.02)
    raise AssertionError("the program has ended")


@pytest.mark.parametrize(
    ("command", "method", "body"),
    [
        (["uvicorn", "app:app", "--port"], "POST", '"receipt for 700"'),
        (["shop.py", "runserver", "--noreload"], "GET", '{"order": "o-1", "receipt": "receipt for 700"}'),
    ],
    ids=["fastapi", "django"],
)
def test_the_programs_of_the_page_work(tmp_path: Path, command: list[str], method: str, body: str) -> None:
    written(tmp_path)
    python, port, grpc, http = sys.executable, free_port(), free_port(), free_port()
    environment = {**os.environ, "MENDFLOW_SERVER": f"127.0.0.1:{grpc}"}
    running = []
    if command[0].endswith(".py"):
        addresses = ["--grpc-address", f"127.0.0.1:{grpc}", "--http-address", f"127.0.0.1:{http}"]
        serve = [python, "-m", "mendflow.cli", "serve", "flows", *addresses]
        running.append(subprocess.Popen(serve, cwd=tmp_path))
        command = [python, *command]
    else:
        command = [python, "-m", *command]
    running.append(subprocess.Popen([*command, str(port)], cwd=tmp_path, env=environment))
    try:
        assert answer(f"http://127.0.0.1:{port}/orders/o-1?cents=700", method, running[-1].poll) == body
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)
