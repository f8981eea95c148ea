"""A thousand watchers, most of which never read: the server's memory does not grow, and the others get each event."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import pytest

from mendflow import Client
from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc
from tests.support.load_workflows import EFFECTS, Leg
from tests.support.promises import Evidence, Promise, Reply, Stored, broken, read_effects, read_store
from tests.support.scale import scaled
from tests.support.servers import serving_process
from tests.support.watchers import CHANNEL_OPTIONS, RawWatch, as_watched, unfaithful

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

HEALTHY = 20
STALLED = 980
CONNECTIONS = 20
#: Healthy watchers wait for the events of a round before the next round begins.
ROUNDS = scaled(90, 900)
#: How much more each stalled watcher may cost at the end than after a third of the rounds, in bytes. The server keeps
#: only the frame that waits to be sent, which it had by then. The rest allows for the noise of allocators.
ALLOWANCE = 1 << 10
#: A running workflow remembers its results. This factor times the growth of its history is allowed for all watchers.
REMEMBERED = 3
#: The cost limit of a watcher that stalls at once on an existing history: its frame of 64 KiB, as a message, as bytes
#: and in gRPC's hands, and a call. A frame of 512 KiB took 2 MiB, and 1,000 such watchers the server's memory.
STALLED_AT_ONCE = 320 << 10
#: The receive window of a stalled stream stays at its initial 64 KiB, so that it stalls soon.
OPTIONS = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0)]
#: How much longer a round may take the others beside stalled watchers than without: this factor, and these seconds for
#: the noise of a machine that does other work as well.
TIMES = 3
NOISE = 0.01
#: How often the two are compared, if the machine itself was slower in one of them.
TRIES = 3
#: The amount of bare work that takes about a millisecond.
BLOCK = bytes(1 << 20)
#: The time limit of one run, in seconds.
LIMIT = scaled(180, 1_200)


@contextlib.asynccontextmanager
async def stubs_to(server: ServerProcess) -> Any:
    """Open connections of their own."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(server.grpc_address, options=OPTIONS) for _ in range(CONNECTIONS)]
        for channel in channels:
            await stack.enter_async_context(channel)
        yield [workflow_service_pb2_grpc.WorkflowServiceStub(channel) for channel in channels]


def stall(stubs: list[Any], workflow_id: str) -> list[Any]:
    """Open watches that no client reads."""
    request = workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id)
    return [stubs[index % CONNECTIONS].WatchWorkflow(request) for index in range(STALLED)]


def resident(server: ServerProcess) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)


@dataclass
class Phase:
    """A workflow in rounds, and the watchers that follow it."""

    workflow_id: str
    watches: list[RawWatch] = field(default_factory=list)
    #: For each round: the seconds from its signal until every watcher had seen all resulting events.
    rounds: list[float] = field(default_factory=list)
    #: For each round: how long the same bare work took beside it, in seconds.
    bare: list[float] = field(default_factory=list)
    #: For each round: the server's memory at its end, in bytes.
    sizes: list[int] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)

    async def run(self, server: ServerProcess, client: Client, stubs: list[Any]) -> None:
        """Begin each round when every watcher has seen all events of the one before."""
        handle = client.handle(self.workflow_id)
        self.watches = [RawWatch(self.workflow_id) for _ in range(HEALTHY)]
        # On the same connections as the stalled watches.
        watching = [asyncio.create_task(watch.run(stub)) for watch, stub in zip(self.watches, stubs, strict=True)]
        for number in range(ROUNDS):
            self.bare.append(bare_work())
            begin = time.perf_counter()
            await handle.signal(f"go-{number}", "x", request_id=f"go-{number}")
            await all_seen(self.watches, number + 1)
            self.rounds.append(time.perf_counter() - begin)
            self.sizes.append(resident(server))
            self.replies.append(Reply("signalled", self.workflow_id, f"go-{number}"))
        await asyncio.gather(*watching)
        self.replies.append(Reply("result", self.workflow_id, await handle.get()))

    @property
    def settled(self) -> list[float]:
        """The rounds after the stalled watches have stalled."""
        return self.rounds[ROUNDS // 3 :]


def bare_work() -> float:
    """Return the seconds that the machine takes for a piece of work that is independent of the server."""
    begin = time.perf_counter()
    hashlib.sha256(BLOCK).digest()
    return time.perf_counter() - begin


def at(share: float, times: list[float]) -> float:
    """Return the time limit that this share of the times meets."""
    return sorted(times)[int(share * len(times))]


def shown(times: list[float]) -> str:
    return f"{at(0.5, times) * 1000:.1f} ms (p90 {at(0.9, times) * 1000:.1f})"


def slower(quiet: Phase, crowded: Phase) -> list[str]:
    """Return where the rounds beside stalled watchers took longer than without, by more than noise."""
    return [
        f"{at(share, crowded.settled):.4f} s at {share:.0%}, {at(share, quiet.settled):.4f} s without"
        for share in (0.5, 0.9)
        if at(share, crowded.settled) > TIMES * at(share, quiet.settled) + NOISE
    ]


def machine_was_steady(quiet: Phase, crowded: Phase) -> bool:
    """Return whether the bare work took about as long beside both, so that other load explains no difference."""
    return all(0.5 < at(share, crowded.bare) / at(share, quiet.bare) < 2 for share in (0.5, 0.9))


def waits(frame: workflow_service_pb2.WatchWorkflowResponse, number: int) -> bool:
    """Return whether the frame shows the wait for this round's signal, or the end after the last round."""
    return any(
        event.HasField("workflow_succeeded") if number == ROUNDS else event.signal_awaited.name == f"go-{number}"
        for event in frame.events
    )


async def all_seen(watches: list[RawWatch], number: int) -> None:
    """Wait until each of them has seen everything that comes before this round."""
    for watch in watches:
        while not watch.streams or not any(waits(frame, number) for frame in watch.streams[-1].frames[-9:]):
            await asyncio.sleep(0.001)


async def compared(server: ServerProcess, client: Client, stubs: list[Any]) -> list[tuple[Phase, Phase, int]]:
    """Compare, and repeat if the speed of the machine changed meanwhile. The last comparison counts."""
    tried: list[tuple[Phase, Phase, int]] = []
    while len(tried) < TRIES:
        tried.append(await phases(server, client, stubs, len(tried)))
        quiet, crowded, _ = tried[-1]
        if machine_was_steady(quiet, crowded):
            break
    return tried


async def phases(server: ServerProcess, client: Client, stubs: list[Any], number: int) -> tuple[Phase, Phase, int]:
    """Run the same rounds without and with stalled watchers, and return how many stalled to the end."""
    legs = [leg for index in range(ROUNDS) for leg in (Leg("signal", signal=f"go-{index}"), Leg("bulk", 3))]
    quiet, crowded = Phase(f"quiet-{number}"), Phase(f"crowded-{number}")
    for phase in (quiet, crowded):
        await client.start("errand", [asdict(leg) for leg in legs], id=phase.workflow_id)
    await quiet.run(server, client, stubs)
    never_read = stall(stubs, crowded.workflow_id)
    await asyncio.gather(*(call.initial_metadata() for call in never_read))
    await crowded.run(server, client, stubs)
    stalled = sum(not call.done() for call in never_read)
    for call in never_read:
        call.cancel()
    return quiet, crowded, stalled


@pytest.mark.timeout(LIMIT + 60)
async def test_watchers_that_never_read_cost_no_memory_and_delay_no_other(tmp_path: Path) -> None:
    """The same server, the same rounds, the same watchers: first alone, then among 980 that never read."""
    with serving_process(tmp_path, modules=("tests.support.load_workflows",)) as server:
        async with (
            asyncio.timeout(LIMIT),
            Client(server.grpc_address, timeout=30.0) as client,
            stubs_to(server) as stubs,
        ):
            tried = await compared(server, client, stubs)
    quiet, crowded, stalled = tried[-1]
    replies = [reply for one, other, _ in tried for reply in (*one.replies, *other.replies)]
    watches = [watch for one, other, _ in tried for watch in (*one.watches, *other.watches)]
    stored = read_store(server.store)
    history = stored.histories[crowded.workflow_id]
    unread = sum(event.ByteSize() for event in history[len(history) // 3 :])
    growth = (crowded.sizes[-1] - crowded.sizes[ROUNDS // 3]) / STALLED
    print(  # noqa: T201 - the proof's figures
        f"\n{STALLED} stalled, {HEALTHY} others; {len(history)} events; from {crowded.sizes[ROUNDS // 3] >> 20} to "
        f"{crowded.sizes[-1] >> 20} MiB: {growth:.0f} bytes a stalled watcher, of {unread} unread; "
        f"a round took the others {shown(crowded.settled)}, without them {shown(quiet.settled)}; bare work "
        f"{shown(crowded.bare)} and {shown(quiet.bare)}; tried {len(tried)} times"
    )
    faults = [str(each) for each in broken(evidence(server, stored, replies, watches))]
    faults += [fault for watch in watches for fault in unfaithful(watch, stored.histories[watch.workflow_id])]
    assert not faults, "\n".join(faults)
    wrong = slower(quiet, crowded)
    assert not wrong, f"{Promise.FAITHFUL_WATCH}: slow watchers slow the others: {wrong}"
    assert stalled == STALLED
    allowance = ALLOWANCE + REMEMBERED * unread / STALLED
    assert unread > 200 * allowance
    assert growth < allowance, f"{Promise.FAITHFUL_WATCH}: a slow watcher costs memory without bound"


def evidence(server: ServerProcess, stored: Stored, replies: list[Reply], watches: list[RawWatch]) -> Evidence:
    return Evidence(stored, read_effects(server.directory / EFFECTS), replies, [as_watched(watch) for watch in watches])


@pytest.mark.timeout(LIMIT + 60)
async def test_watchers_that_stall_on_an_old_history_cost_a_small_frame_each(tmp_path: Path) -> None:
    steps = 100
    with serving_process(tmp_path, modules=("tests.support.load_workflows",)) as server:
        async with asyncio.timeout(LIMIT), Client(server.grpc_address) as client, stubs_to(server) as stubs:
            assert await client.run("errand", [asdict(Leg("bulk", steps))], id="subject") == ["stepped"]
            history = [event async for event in client.handle("subject").events()]
            before = resident(server)
            never_read = stall(stubs, "subject")
            await asyncio.gather(*(call.initial_metadata() for call in never_read))
            # A watcher that comes now is served all the same, behind the stalled ones and then alone.
            watch = RawWatch("subject")
            await watch.run(stubs[0])
            each = (resident(server) - before) / STALLED
            assert not any(call.done() for call in never_read)
            for call in never_read:
                call.cancel()
    size = sum(event.ByteSize() for event in history)
    print(f"\n{STALLED} stalled on an old history of {size} bytes: {each:.0f} bytes each")  # noqa: T201 - as above
    faults = [str(each) for each in broken(evidence(server, read_store(server.store), [], [watch]))]
    faults += unfaithful(watch, history)
    assert not faults, "\n".join(faults)
    assert size > 5 * STALLED_AT_ONCE
    assert each < STALLED_AT_ONCE, f"{Promise.FAITHFUL_WATCH}: a slow watcher costs {each:.0f} bytes"
