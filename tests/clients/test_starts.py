"""The same starts twice, from each language: each workflow exists once."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clients.programs import Program
    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

COUNT = 1_000


@pytest.mark.timeout(120)
def test_the_same_starts_twice_leave_each_workflow_once(program: Program, order_server: ServerProcess) -> None:
    command = program.command("starts", order_server.grpc_address, program.language, str(COUNT))
    said = [
        subprocess.run(command, env=program.environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said == [f"starts: {COUNT} requested, {COUNT} started\n", f"starts: {COUNT} requested, 0 started\n"]
    assert order_server.terminate() == 0
    with contextlib.closing(sqlite3.connect(order_server.store)) as store:
        ids = {workflow_id for (workflow_id,) in store.execute("select workflow_id from workflows")}
    assert ids == {f"{program.language}-{number:04d}" for number in range(1, COUNT + 1)}
