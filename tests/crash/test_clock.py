"""A wall clock that jumps by an hour under a real server: nothing is lost or late, and health stays SERVING."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from mendflow import Client
from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.clock_faults import set_clock
from tests.support.load_workflows import EFFECTS
from tests.support.promises import Death, Evidence, Reply, Watched, broken, read_effects, read_store
from tests.support.servers import serving_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.promises import Stored
    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

HOUR: Final = 3_600.0
#: How long the waits last, in seconds.
WAIT: Final = 2.5
#: The time limit for the end of all workflows, in seconds: less than any hour.
LIMIT: Final = 60.0

#: By workflow: type, input, the event that shows that it is where the jump must find it, and its result.
CASES: Final[dict[str, tuple[str, Any, event_pb2.EventKind.ValueType, Any]]] = {
    "asleep": ("sleeper", WAIT, event_pb2.EVENT_KIND_TIMER_STARTED, "awake"),
    "backs-off": (
        "errand",
        [{"kind": "back-off", "seconds": WAIT}],
        event_pb2.EVENT_KIND_ATTEMPT_FAILED,
        ["came again"],
    ),
    "awaits": ("signal_or_timeout", WAIT, event_pb2.EVENT_KIND_SIGNAL_AWAITED, "timed out"),
    "signalled": ("wait_for", "signalled", event_pb2.EVENT_KIND_SIGNAL_AWAITED, "signalled: continue"),
    "runs": ("holds", WAIT, event_pb2.EVENT_KIND_ATTEMPT_STARTED, "held"),
    "overruns": ("errand", [{"kind": "overrun"}], event_pb2.EVENT_KIND_ATTEMPT_STARTED, ["got through"]),
}


class Scene:
    """Workflows in all states that a clock could disturb, and everything that is seen of them."""

    def __init__(self, server: ServerProcess, client: Client) -> None:
        self.server = server
        self.client = client
        self.replies: list[Reply] = []
        self.watched: list[Watched] = []
        self.deaths: list[Death] = []
        self.health: list[tuple[int, str]] = []
        self._watches: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Start all workflows, and wait until each is where the jump must find it."""
        for workflow_id, (workflow_type, value, _, _) in CASES.items():
            await self.start(workflow_type, value, workflow_id)
        for watched in self.watched:
            sought = CASES[watched.workflow_id][2]
            while sought not in {event_kind(event) for event in watched.events}:
                await asyncio.sleep(0.005)

    async def start(self, workflow_type: str, value: Any, workflow_id: str) -> None:
        """Start a workflow, and watch it."""
        handle = await self.client.start(workflow_type, value, id=workflow_id)
        self.replies.append(Reply("started", workflow_id, (await handle.get()).uid))
        watched = Watched(workflow_id)
        self.watched.append(watched)
        self._watches.append(asyncio.create_task(self._watch(watched)))

    async def _watch(self, watched: Watched) -> None:
        async for event in self.client.handle(watched.workflow_id).watch():
            watched.events.append(event)
        watched.ended = True

    async def ends(self) -> dict[str, Any]:
        """Send the signal, and return the results of all workflows, within far less than the hour."""
        await self.client.signal("signalled", "go", "continue", request_id="go")
        self.replies.append(Reply("signalled", "signalled", "go"))
        ids = [watched.workflow_id for watched in self.watched]
        finals = await asyncio.gather(*map(self._end, ids))
        await asyncio.gather(*self._watches)
        return {final.workflow_id: json.loads(final.output.json) for final in finals}

    async def _end(self, workflow_id: str) -> workflow_pb2.Workflow:
        final = workflow_pb2.Workflow()
        while not final.HasField("end_time"):
            final = await self.client.get(workflow_id, wait=30.0)
        self.replies.append(Reply("result", workflow_id, final))
        return final

    @contextlib.asynccontextmanager
    async def health_watched(self) -> AsyncIterator[None]:
        """Request the health without a pause."""
        asking = asyncio.create_task(self._ask())
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.wait([asking])
        assert len(self.health) > 20
        assert set(self.health) == {(200, "SERVING")}

    async def _ask(self) -> None:
        while True:
            status, body = await asyncio.to_thread(self.server.health)
            self.health.append((status, body.get("status", "")))
            await asyncio.sleep(0.02)

    def kill(self) -> None:
        """Send SIGKILL, and save what the server left."""
        self.server.kill()
        copy = self.server.directory / f"at-death-{len(self.deaths)}"
        copy.mkdir()
        for path in self.server.directory.glob("mendflow.db*"):
            shutil.copy(path, copy)
        watched = [replace(each, events=list(each.events)) for each in self.watched]
        self.deaths.append(
            Death(
                read_store(copy / self.server.store.name),
                read_effects(self.server.directory / EFFECTS),
                list(self.replies),
                watched,
            )
        )

    def evidence(self) -> Evidence:
        """Return all evidence for the checker, once the server is dead."""
        effects = read_effects(self.server.directory / EFFECTS)
        return Evidence(read_store(self.server.store), effects, self.replies, self.watched, self.deaths)


def event_kind(event: event_pb2.Event) -> int:
    return event_pb2.EventKind.Value(f"EVENT_KIND_{str(event.WhichOneof('detail')).upper()}")


@contextlib.contextmanager
def serving_by_a_jumping_clock(directory: Path) -> Iterator[ServerProcess]:
    """Serve in a process that soon evicts waiting workflows and often records that it lives."""
    set_clock(directory, 0.0)
    with serving_process(
        directory,
        modules=("tests.support.load_workflows",),
        environment={"MENDFLOW_EVICT_AFTER": "0.3", "MENDFLOW_PROBE_INTERVAL": "0.2"},
        faults=("jumping_clock",),
    ) as server:
        yield server


def times_back(stored: Stored) -> list[str]:
    """Return where an event's time is before the time of the event before it."""
    return [
        f"{workflow_id}: {event.sequence}"
        for workflow_id, history in stored.histories.items()
        for before, event in itertools.pairwise(history)
        if event.time.ToNanoseconds() < before.time.ToNanoseconds()
    ]


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_clock_that_jumps_holds_up_nothing(tmp_path: Path, jump: float) -> None:
    with serving_by_a_jumping_clock(tmp_path) as server:
        async with asyncio.timeout(LIMIT), Client(server.grpc_address) as client:
            scene = Scene(server, client)
            async with scene.health_watched():
                await scene.begin()
                await scene.start("sleeper", HOUR / 2, "sleeps-for-half-an-hour")
                set_clock(tmp_path, jump)
                if jump > 0:
                    outputs = await scene.ends()
                else:
                    # The workflow that sleeps for half an hour sleeps until the others have ended.
                    for workflow_id, (_, _, _, output) in CASES.items():
                        if workflow_id != "signalled":
                            assert await client.handle(workflow_id).result() == output
                    asleep = await client.get("sleeps-for-half-an-hour")
                    assert asleep.state == workflow_pb2.WORKFLOW_STATE_WAITING
                    assert await client.run("three", "x", id="after-the-jump") == "x-1-2-3"
                    set_clock(tmp_path, HOUR)
                    outputs = await scene.ends()
            listed = [workflow.workflow_id async for workflow in client.list()]
        server.kill()
        evidence = scene.evidence()
    expected = {workflow_id: output for workflow_id, (_, _, _, output) in CASES.items()}
    assert outputs == {**expected, "sleeps-for-half-an-hour": "awake"}
    assert sorted(listed) == sorted(evidence.stored.rows)
    assert not broken(evidence)
    assert not times_back(evidence.stored)
    failures = [
        event.attempt_failed.failure.kind
        for event in evidence.stored.histories["runs"]
        if event.HasField("attempt_failed")
    ]
    assert not failures, "the jump does not count as running time of an attempt"
    warned = [line for line in server.log if line["event"] == "wall_clock_behind"]
    assert len(warned) == (jump < 0)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_restart_after_a_jump_holds_up_nothing(tmp_path: Path, jump: float) -> None:
    """Half of the jump happens while the server runs, half of it while the server is dead."""
    with serving_by_a_jumping_clock(tmp_path) as server:
        async with asyncio.timeout(LIMIT), Client(server.grpc_address) as client:
            scene = Scene(server, client)
            await scene.begin()
            set_clock(tmp_path, jump / 2)
            assert await client.run("three", "x", id="between") == "x-1-2-3"
            scene.kill()
            set_clock(tmp_path, jump)
            server.start()
            async with scene.health_watched():
                outputs = await scene.ends()
        server.kill()
        evidence = scene.evidence()
    assert outputs == {workflow_id: output for workflow_id, (_, _, _, output) in CASES.items()}
    assert not broken(evidence)
