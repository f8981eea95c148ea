"""The acts on a program from outside while it runs, and the way to its end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from mendflow import MendflowError
from mendflow.v1 import workflow_pb2
from tests.fuzz.programs import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mendflow import WorkflowHandle

#: The acts beside the signals.
ACTS = ("pause", "pause", "cancel", "resume", "terminate")
#: A program that has not ended after this many seconds never will.
PATIENCE = 20.0


async def act(handle: WorkflowHandle[Any], acts: Sequence[str]) -> None:
    """Do these acts one after the other. The server may refuse some."""
    verbs = {"cancel": handle.cancel, "resume": handle.resume, "terminate": handle.terminate}
    for what in acts:
        with contextlib.suppress(MendflowError):
            if what == "pause":
                await asyncio.sleep(0.004)  # Another interleaving, not a wait for anything.
            elif what in verbs:
                await verbs[what]()
            else:
                await handle.signal(what, what)


async def let_end(handle: WorkflowHandle[Any]) -> bool:
    """Send the signals that it may wait for, each time it rests, until it has ended. Return whether it did."""
    seen = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not (found := await handle.get()).HasField("end_time"):
                stopped = found.state in (workflow_pb2.WORKFLOW_STATE_PAUSED, workflow_pb2.WORKFLOW_STATE_QUARANTINED)
                if found.last_sequence == seen:
                    await act(handle, ["resume"] if stopped else SIGNALS)
                seen = found.last_sequence
                await asyncio.sleep(0.005)
            return True
    return False
