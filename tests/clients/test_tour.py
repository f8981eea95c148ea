"""The same tour from four languages prints the same lines, though the test kills the server during the tour."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clients.programs import Program
    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

LINES = """\
health: SERVING
health of nothing: NOT_FOUND
health watch: SERVING
start and wait: SUCCEEDED, started, 9800 cents, 1 parcel(s)
start again: SUCCEEDED, not started, same execution
typed: SUCCEEDED, 4900 cents, 1 parcel(s)
trace: continued
other input: ALREADY_EXISTS, ALREADY_STARTED of mendflow, differs: input
bad input: INVALID_ARGUMENT, INPUT_MISMATCH, input.items[0].quantity
no workflow: NOT_FOUND, WORKFLOW_NOT_FOUND, nothing
failure: FAILED, PERMANENT, mendflow.errors.StepFailed: step ship failed: mendflow.errors.PermanentError: \
chair weighs 100 kg, which exceeds the carrier's limit of 60 kg, step ship
deadline: DEADLINE_EXCEEDED
signal: new, then duplicate
watch: 1 workflow_started
watch: 2 attempt_started
watch: 3 attempt_succeeded
watch: 4 signal_awaited
watch: 5 signal_received
watch: 6 signal_taken
watch: 7 attempt_started
watch: 8 attempt_succeeded
watch: 9 timer_started
watch: 10 timer_fired
watch: 11 attempt_started
watch: 12 attempt_succeeded
watch: 13 progress_reported
watch: 14 workflow_succeeded
progress: 1 of 1: desk shipped
cancel: CANCELLED, undone
pages: 2 + 2 + 2
""".splitlines()

#: The test kills the server at this line, while the order sleeps to be packed.
KILL_AT = "watch: 9 timer_started"


@pytest.mark.timeout(120)
async def test_the_tour_is_the_same_from_every_language(program: Program, order_server: ServerProcess) -> None:
    command = program.command("tour", order_server.grpc_address, program.language)
    running = await asyncio.create_subprocess_exec(
        *command, env=program.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None
    lines = []
    async for line in running.stdout:
        lines.append(line.decode().rstrip("\n"))
        if lines[-1] == KILL_AT:
            await asyncio.to_thread(order_server.kill)
            await asyncio.to_thread(order_server.start)
    _, errors = await running.communicate()
    assert (lines, running.returncode) == (LINES, 0), errors.decode()
