"""Fixtures: the built programs, and the server that they call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.programs import PROGRAMS, Program
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", params=list(PROGRAMS))
def program(request: pytest.FixtureRequest) -> Program:
    """The built program of a language."""
    found = PROGRAMS[request.param]
    if found.lacks:
        pytest.skip(f"the {found.language} client needs {found.lacks}")
    found.build()
    return found


@pytest.fixture
def order_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with the example that the programs call."""
    with serving_process(tmp_path, modules=("examples.order",)) as server:
        yield server
