"""Watches cut at random: the call, the network or the server; with filters, from bookmarks, to the end.

MENDFLOW_SEED=number selects another story. A failure names its seed. Cuts come at moments of progress, so two runs of a
seed are similar but not equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mendflow import Client
from mendflow.v1 import event_pb2, workflow_service_pb2_grpc
from tests.support.load_workflows import EFFECTS, Leg
from tests.support.promises import Death, Evidence, Reply, Watched, broken, read_effects, read_store
from tests.support.proxy import Proxy
from tests.support.scale import scaled
from tests.support.servers import serving_process
from tests.support.watchers import CHANNEL_OPTIONS, RawWatch, as_watched, unfaithful

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

SEEDS = [int(os.environ["MENDFLOW_SEED"])] if os.environ.get("MENDFLOW_SEED") else list(range(1, scaled(1, 6) + 1))
WORKFLOWS = 3
ROUNDS = scaled(8, 40)
#: How the server dies: by SIGKILL, and once by an orderly stop.
KILLS = scaled(3, 12)
#: The time limit of one run, in seconds.
LIMIT = scaled(60, 600)
KINDS = [kind for kind in event_pb2.EventKind.values() if kind]
#: The pause between two looks at the progress, in seconds, and the number of looks without progress that count as some.
LOOK = 0.002
LONG_LOOK = 150


def legs(rng: Random) -> list[Leg]:
    """Draw a workflow of many kinds of events. Each round begins with a signal."""
    drawn = []
    for number in range(ROUNDS):
        drawn += [
            Leg("signal", signal=f"go-{number}"),
            Leg("steps", rng.randint(4, 14)),
            rng.choice((Leg("gather", 4, 0.01), Leg("sleep", 3, 0.01), Leg("retries", 1), Leg("refused"))),
            rng.choice((Leg("values"), Leg("progress", 4), Leg("signal", signal="never", seconds=0.02))),
        ]
    return drawn


def kinds_for(rng: Random) -> tuple[int, ...]:
    """Draw a filter: none, one that passes much, or one that passes hardly anything."""
    return tuple(rng.sample(KINDS, rng.choice((0, 0, 1, 3, 12))))


class Storm:
    """Watchers of a server that dies, over a bad network."""

    def __init__(self, server: ServerProcess, rng: Random) -> None:
        self.raw: list[RawWatch] = []
        self.clients: list[Watched] = []
        self.replies: list[Reply] = []
        self.deaths: list[Death] = []
        self.troubles: Counter[str] = Counter()
        self.ids = [f"subject-{number}" for number in range(WORKFLOWS)]
        self._server = server
        self._rng = rng
        self._proxies: list[Proxy] = []
        self._stubs: list[Any] = []
        self._far: list[Client] = []

    @property
    def watched(self) -> list[Watched]:
        """What all watchers have seen so far."""
        by_client = [dataclasses.replace(watched, events=list(watched.events)) for watched in self.clients]
        return by_client + [as_watched(watch) for watch in self.raw]

    def unfinished(self) -> list[str]:
        """Return the watches that have not ended, with their cursors."""
        left = [f"{each.workflow_id} {each.kinds} at {each.cursor}" for each in self.raw if not each.ended]
        by_client = [each for each in self.clients if not each.ended]
        return left + [f"{each.workflow_id} {each.kinds} by the client" for each in by_client]

    async def run(self) -> None:
        """Run the workflows in rounds, with trouble in each. Then watch them again, with trouble."""
        async with contextlib.AsyncExitStack() as stack:
            near = await stack.enter_async_context(Client(self._server.grpc_address, timeout=60.0, retry_for=None))
            for _ in range(3):
                proxy = await stack.enter_async_context(Proxy(self._server.grpc_port))
                self._proxies.append(proxy)
                address = f"127.0.0.1:{proxy.port}"
                for _ in range(2):
                    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
                    await stack.enter_async_context(channel)
                    self._stubs.append(workflow_service_pb2_grpc.WorkflowServiceStub(channel))
                self._far.append(await stack.enter_async_context(Client(address, timeout=60.0, retry_for=None)))
            async with asyncio.TaskGroup() as group:
                await self._live(near, group)
            async with asyncio.TaskGroup() as group:
                await self._afterwards(group)
            self.replies += [Reply("result", workflow_id, await near.get(workflow_id)) for workflow_id in self.ids]

    async def _live(self, near: Client, group: asyncio.TaskGroup) -> None:
        for workflow_id in self.ids:
            drawn = [dataclasses.asdict(leg) for leg in legs(self._rng)]
            await near.start("errand", drawn, id=workflow_id)
            self.replies.append(Reply("started", workflow_id, (await near.get(workflow_id)).uid))
            for _ in range(3):
                self._watch(group, RawWatch(workflow_id, kinds_for(self._rng)), 0.02)
                self._watch_by_client(group, Watched(workflow_id, kinds_for(self._rng), 0))
        troubles = ["kill"] * KILLS + ["drain"]
        troubles += self._rng.choices(["cut", "stall, then cut", "stall, then flow"], k=ROUNDS * 2 - len(troubles))
        self._rng.shuffle(troubles)
        for number in range(ROUNDS):
            for workflow_id in self.ids:
                group.create_task(self._signal(near, workflow_id, f"go-{number}"))
            for trouble in troubles[number * 2 : number * 2 + 2]:
                await self._progress(self._rng.randint(1, 60))
                await self._trouble(trouble)
                self._watch(group, self._bookmarked(), 0.02)

    async def _signal(self, near: Client, workflow_id: str, name: str) -> None:
        await near.signal(workflow_id, name, "x", request_id=name)
        self.replies.append(Reply("signalled", workflow_id, name))

    async def _afterwards(self, group: asyncio.TaskGroup) -> None:
        """Watch from old bookmarks, with other filters, while the server is killed and everything is cut once more."""
        for _ in range(30):
            self._watch(group, self._bookmarked(), 0.3)
        for earlier in self.raw[:6]:  # Also from where only the final event remains, or nothing.
            for left in (0, 1):
                bookmark = RawWatch(earlier.workflow_id, kinds_for(self._rng), earlier.cursor - left)
                self._watch(group, bookmark, 0.3)
        for trouble in ("cut", "kill", "cut", "cut"):
            await self._progress(self._rng.randint(1, 10))
            await self._trouble(trouble)

    # The watchers.

    def _bookmarked(self) -> RawWatch:
        """Return a watch from a cursor of an earlier watch, with a filter of its own."""
        earlier = self._rng.choice(self.raw)
        cursor = self._rng.choice(earlier.frames).last_sequence if earlier.frames else 0
        return RawWatch(earlier.workflow_id, kinds_for(self._rng), cursor)

    def _watch(self, group: asyncio.TaskGroup, watch: RawWatch, often: float) -> None:
        self.raw.append(watch)
        dice = Random(self._rng.random())
        group.create_task(watch.run(self._stubs[len(self.raw) % len(self._stubs)], lambda _: dice.random() < often))

    def _watch_by_client(self, group: asyncio.TaskGroup, watched: Watched) -> None:
        self.clients.append(watched)
        client = self._far[len(self.clients) % len(self._far)]

        async def watch() -> None:
            handle = client.handle(watched.workflow_id)
            async for event in handle.watch(kinds=watched.kinds, silence=0.5):
                watched.events.append(event)
            watched.ended = True

        group.create_task(watch())

    # The trouble.

    async def _progress(self, wanted: int) -> None:
        """Wait until watchers have seen this many more frames, or none for long."""
        target = self._seen() + wanted
        before, idle = -1, 0
        while (seen := self._seen()) < target and idle < LONG_LOOK:
            idle = idle + 1 if seen == before else 0
            before = seen
            await asyncio.sleep(LOOK)

    def _seen(self) -> int:
        return sum(bool(frame.events) for watch in self.raw for frame in watch.frames)

    async def _trouble(self, kind: str) -> None:
        self.troubles[kind] += 1
        proxy = self._rng.choice(self._proxies)
        match kind:
            case "cut":
                proxy.cut()
            case "kill":
                self._server.kill()
                self.deaths.append(self._death())
                self._server.start(wait=False)
            case "drain":
                assert await asyncio.to_thread(self._server.terminate) == 0
                self._server.start(wait=False)
            case _:
                proxy.stall()
                await self._progress(self._rng.randint(1, 60))
                if kind == "stall, then cut":
                    proxy.cut()
                proxy.flow()

    def _death(self) -> Death:
        """Return what is stored, and what is known to have left the dead process.

        How soon the next life continues is not judged here, because the next death may come first.
        """
        stored, effects = read_store(self._server.store), read_effects(self._server.directory / EFFECTS)
        return Death(stored, effects, list(self.replies), self.watched)


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_watches_cut_anywhere_equal_the_stored_history(tmp_path: Path, seed: int) -> None:
    signs_of_life = {"MENDFLOW_WATCH_HEARTBEAT": "0.05"}
    with serving_process(tmp_path, modules=("tests.support.load_workflows",), environment=signs_of_life) as server:
        storm = Storm(server, Random(seed))
        try:
            async with asyncio.timeout(LIMIT):
                await storm.run()
        except TimeoutError:
            server.kill()
            pytest.fail(f"MENDFLOW_SEED={seed}: after {LIMIT} s {storm.unfinished()} have not ended")
        except BaseExceptionGroup as errors:
            raise AssertionError(f"MENDFLOW_SEED={seed}") from errors
        server.kill()  # Everything that watchers saw must be stored now.
        stored = read_store(server.store)
        effects = read_effects(tmp_path / EFFECTS)
    evidence = Evidence(stored, effects, storm.replies, storm.watched, storm.deaths)
    wrong = [str(each) for each in broken(evidence)]
    wrong += [fault for watch in storm.raw for fault in unfaithful(watch, stored.histories[watch.workflow_id])]
    assert not wrong, "\n".join([f"MENDFLOW_SEED={seed}", *wrong])
    # There was a storm, and it cut the watches.
    streams = sum(len(watch.streams) for watch in storm.raw)
    frames = [frame for watch in storm.raw for frame in watch.frames]
    silent = sum(not frame.events for frame in frames)
    in_progress = [sum(bool(each.events) and not each.ended for each in death.watched) for death in storm.deaths]
    taken_over = sum(event.HasField("workflow_recovered") for each in stored.histories.values() for event in each)
    print(  # noqa: T201 - the proof's figures
        f"\nseed {seed}: {[len(history) for history in stored.histories.values()]} events, "
        f"{len(storm.raw)} bare watches in {streams} streams and {len(frames)} frames, {silent} of them empty; "
        f"{len(storm.clients)} by the client; {dict(storm.troubles)}; "
        f"watches in progress at the deaths: {in_progress}; workflows taken over: {taken_over}"
    )
    assert sum(map(bool, in_progress)) > KILLS // 2, (
        f"MENDFLOW_SEED={seed}: the deaths interrupted {in_progress} watches"
    )
    assert taken_over, f"MENDFLOW_SEED={seed}: no death interrupted a workflow"
    assert streams > 3 * len(storm.raw), f"MENDFLOW_SEED={seed}"
    assert silent > len(storm.raw), f"MENDFLOW_SEED={seed}"
