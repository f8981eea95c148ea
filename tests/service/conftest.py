"""Fixtures of the service tests.

They are servers to share, to script and to receive spans, the services before a stub, and stores to move.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from mendflow.cli import commands, main
from tests.support.moving import fill, url_of, with_store
from tests.support.scripted_server import scripted_server
from tests.support.servers import serving_process
from tests.support.span_receiver import receiving
from tests.support.stub_engine import Door, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from click.testing import Result

    from tests.support.postgres import Postgres
    from tests.support.scripted_server import Script
    from tests.support.servers import ServerProcess
    from tests.support.span_receiver import Receiver


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server for the tests of a module that do not disturb it. Each test uses its own ids."""
    with serving_process(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the OpenTelemetry variables of the machine."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def receiver(no_otel_variables: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Run a receiver of spans, which the variables of this process name."""
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.endpoint)
        yield found


@pytest.fixture
def script() -> Iterator[Script]:
    """Run a server that returns what the test scripts."""
    with scripted_server() as servicer:
        yield servicer


@pytest.fixture
def mendflow(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command line without retries."""
    for name in ("RETRY_FOR", "WATCH_RETRY_FOR", "PAUSE"):
        monkeypatch.setattr(commands, name, 0.0)

    def run(*arguments: str, stdin: bytes | None = None, server: str = script.address) -> Result:
        return CliRunner().invoke(main, list(arguments), input=stdin, env={"MENDFLOW_SERVER": server})

    return run


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Run the services in front of a stand-in for the engine."""
    async with serving() as running:
        yield running


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with rows in every table, which no test changes."""
    path = tmp_path_factory.mktemp("full") / "mendflow.db"
    with_store(url_of(path), fill)
    return path


@pytest.fixture
def source(full: Path, tmp_path: Path) -> Path:
    """A file with rows in every table, to be moved."""
    return Path(shutil.copy(full, tmp_path / "mendflow.db"))


@pytest.fixture
def schema(postgres: Postgres) -> str:
    """The name of an empty schema of PostgreSQL."""
    return postgres.schema()
