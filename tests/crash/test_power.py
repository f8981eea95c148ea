"""The power is cut under load: what was acknowledged had been synced, so it is stored and continues.

A SIGKILL leaves what the system has yet to write; a power cut does not. MENDFLOW_SEED=number selects another story.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from mendflow_server.store.damage import Damage
from mendflow_server.store.sqlite import connection, writer
from tests.crash.load import Load
from tests.crash.power import PoweredServer, build_platter, mixed, syncs
from tests.support.load_workflows import EFFECTS
from tests.support.promises import Death, Evidence, Promise, Reply, Watched, broken, read_effects, read_store
from tests.support.scale import SOAK, scaled
from tests.support.stories import draw_stories, wrong_ends

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from tests.crash.power import Cut

pytestmark = pytest.mark.proof

COUNT = scaled(80, 1_500)
CUTS = scaled(5, 50)
#: How many syncs the short form tries.
FEW = 4
#: How long one run may take, in seconds.
LIMIT = scaled(90, 900)
SEEDS = [int(os.environ["MENDFLOW_SEED"])] if os.environ.get("MENDFLOW_SEED") else list(range(1, scaled(1, 4) + 1))


@pytest.fixture(scope="session")
def platter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library that sees the syncs."""
    return build_platter(tmp_path_factory.mktemp("platter"), Path(__file__).with_name("platter.c"))


@pytest.fixture
def powered(tmp_path: Path, platter: Path) -> Iterator[PoweredServer]:
    """Yield a server whose power can be cut, not started yet."""
    server = PoweredServer(tmp_path, modules=("tests.support.load_workflows",), library=platter, rng=Random(SEEDS[0]))
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_or_done_twice_by_power_cuts(powered: PoweredServer, seed: int) -> None:
    rng = powered.rng = Random(seed)
    stories = draw_stories(rng, count=COUNT, lives=CUTS + 1)
    powered.shares = (0.0, 0.0, 0.5, 0.9)
    powered.lives = ((), ("frequent_checkpoints",), ("frequent_checkpoints",))
    load = Load(powered, stories)
    deaths: list[Death] = []

    def seen(cut: Cut) -> None:
        watched = [replace(each, events=list(each.events)) for each in load.cast.watched]
        deaths.append(Death(cut.stored, read_effects(powered.directory / EFFECTS), list(load.cast.replies), watched))

    powered.on_cut = seen
    powered.start()
    try:
        async with asyncio.timeout(LIMIT):
            await load.run(rng, kills=CUTS)
    except TimeoutError:
        pytest.fail(f"MENDFLOW_SEED={seed}: {load.unfinished()} have not ended after {LIMIT} s")
    powered.shares = (0.0,)
    powered.kill()  # Everything acknowledged must be stored now.
    stored = read_store(powered.store)
    effects = read_effects(powered.directory / EFFECTS)
    wrong = [str(each) for each in broken(Evidence(stored, effects, load.cast.replies, load.cast.watched, deaths))]
    wrong += wrong_ends(stories, load.cast.ends)
    assert not wrong, "\n".join([f"MENDFLOW_SEED={seed}", *wrong])
    assert stored.rows.keys() == {story.workflow_id for story in stories}
    # There was load, the cuts interrupted it, and the log was restarted between them.
    counts = syncs(powered.platter)
    print(  # noqa: T201 - the proof's figures
        f"\nseed {seed}: {len(stored.rows)} workflows, {len(effects)} executions, {len(load.cast.watched)} watches, "
        f"{len(load.cast.replies)} answers; "
        f"syncs of the log {counts['-wal']}, of the file {counts['']}, of the directory "
        f"{counts['directory']}; open at the cuts: {[cut.open_stories for cut in load.kills]}, written sectors "
        f"lost: {[cut.lost for cut in powered.cuts]}"
    )
    assert len(load.kills) == CUTS
    assert sum(cut.open_stories for cut in load.kills) > COUNT
    assert counts["-wal"] > COUNT
    assert counts[""] > CUTS


async def work(client: Client, replies: list[Reply], watched: Watched) -> None:
    """Run one workflow to its end and another one up to its wait, and watch both."""
    for workflow_id, workflow_type, value in (("ends", "three", "x"), ("waits", "wait_for", "y")):
        handle = await client.start(workflow_type, value, id=workflow_id)
        replies.append(Reply("started", workflow_id, (await handle.get()).uid))
    assert await client.handle("ends").result() == "x-1-2-3"
    replies.append(Reply("result", "ends", await client.get("ends")))
    async for event in client.handle("waits").watch():
        watched.events.append(event)
        if event.HasField("signal_awaited"):
            break


async def to_the_end(client: Client, replies: list[Reply], watched: list[Watched]) -> None:
    """Run two workflows to their ends, and watch them, whatever happens to the server."""

    async def watch(each: Watched) -> None:
        async for event in client.handle(each.workflow_id).watch():
            each.events.append(event)
        each.ended = True

    async with asyncio.TaskGroup() as group:
        for workflow_id, workflow_type, value in (("ends", "three", "x"), ("waits", "wait_for", "y")):
            handle = await client.start(workflow_type, value, id=workflow_id)
            replies.append(Reply("started", workflow_id, (await handle.get()).uid))
            watched.append(Watched(workflow_id))
            group.create_task(watch(watched[-1]))
        await client.signal("waits", "go", "on", request_id="go")
        replies.append(Reply("signalled", "waits", "go"))
    for workflow_id, output in (("ends", "x-1-2-3"), ("waits", "y: on")):
        assert await client.handle(workflow_id).result() == output
        replies.append(Reply("result", workflow_id, await client.get(workflow_id)))


async def cut_at(server: PoweredServer, sync: int) -> Evidence:
    """Cut the power at this sync, then run everything to its end. 0 means that nothing is cut."""
    replies: list[Reply] = []
    watched: list[Watched] = []
    deaths: list[Death] = []
    effects = server.directory / EFFECTS
    server.environment["PLATTER_DIES"] = str(sync)
    server.start(wait=False)
    try:
        async with (
            asyncio.timeout(60),
            Client(server.grpc_address, retry_for=None) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(to_the_end(client, replies, watched))
            if sync:
                assert await asyncio.to_thread(server.wait_died) == -signal.SIGKILL
                server.lose_power()
                seen = [replace(each, events=list(each.events)) for each in watched]
                deaths.append(Death(server.cuts[-1].stored, read_effects(effects), list(replies), seen))
                server.environment["PLATTER_DIES"] = "0"
                server.start(wait=False)
        server.shares = (0.0,)
        server.kill()
    finally:
        server.stop()
    return Evidence(server.cuts[-1].stored, read_effects(effects), replies, watched, deaths)


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.proof
async def test_the_power_may_be_cut_at_any_sync(tmp_path: Path, platter: Path) -> None:
    """Of the data to sync, nothing, half or all of it survives. The log restarts every few commits."""
    rng = Random(SEEDS[0])

    def server(name: str) -> PoweredServer:
        (tmp_path / name).mkdir()
        faults = ("frequent_checkpoints",)
        return PoweredServer(
            tmp_path / name, modules=("tests.support.load_workflows",), faults=faults, library=platter, rng=rng
        )

    whole = server("whole")
    assert not broken(await cut_at(whole, 0)), "and nothing is cut"
    count = sum(syncs(whole.platter).values())
    lost: list[int] = []
    for sync in rng.sample(range(1, count + 1), count):
        if not SOAK and len(lost) >= FEW and sum(lost) > 0:
            break
        for share in (0.0, 0.5, 1.0) if SOAK else (rng.choice((0.0, 0.5, 1.0)),):
            cut = server(f"{sync}-{share}")
            cut.shares = (share,)
            evidence = await cut_at(cut, sync)
            assert not broken(evidence), f"MENDFLOW_SEED={SEEDS[0]}: cut at sync {sync} of {count}, {share} kept"
            lost.append(cut.cuts[0].lost)
    print(f"\n{len(lost)} cuts at {count} syncs; written sectors lost: {lost}")  # noqa: T201 - the proof's figures
    assert sum(lost) > 0


@pytest.mark.parametrize(
    ("fault", "promises"),
    [
        ("commit_not_synced", {Promise.DURABLE_START, Promise.OUTPUT_COMMIT}),
        ("commit_synced_late", {Promise.DURABLE_START, Promise.OUTPUT_COMMIT}),
        ("", set()),
    ],
)
async def test_a_commit_that_is_not_synced_is_reported(
    powered: PoweredServer, fault: str, promises: set[Promise]
) -> None:
    """Prove the checker: a power cut breaks the promises where SIGKILL alone would not."""
    replies: list[Reply] = []
    watched = Watched("waits")
    powered.faults = (fault,) if fault else ()
    powered.start()
    async with Client(powered.grpc_address) as client:
        await work(client, replies, watched)
    powered.kill()
    effects = read_effects(powered.directory / EFFECTS)
    (cut,) = powered.cuts
    death = Death(cut.stored, effects, replies, [watched])
    found = broken(Evidence(cut.stored, effects, replies, deaths=[death], over=False))
    assert {breach.promise for breach in found} == promises, found


async def test_a_power_cut_after_a_clean_end_loses_nothing(powered: PoweredServer) -> None:
    replies: list[Reply] = []
    watched = Watched("waits")
    powered.start()
    async with Client(powered.grpc_address) as client:
        await work(client, replies, watched)
        assert powered.terminate() == 0
        powered.lose_power()
        powered.start()
        await client.signal("waits", "go", "on", request_id="go")
        replies.append(Reply("signalled", "waits", "go"))
        assert await client.handle("waits").result() == "y: on"
    powered.kill()
    effects = read_effects(powered.directory / EFFECTS)
    first, last = powered.cuts
    death = Death(first.stored, effects, replies[:-1], [watched])
    assert not broken(Evidence(last.stored, effects, replies, deaths=[death]))


@pytest.mark.parametrize("create", [True, False])
def test_the_writers_connection_syncs_each_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, create: bool
) -> None:
    made: list[sqlite3.Connection] = []
    connect = connection.connect_writer

    def connect_and_keep(*args: Any, **options: Any) -> sqlite3.Connection:
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(writer, "connect_writer", connect_and_keep)
    for _ in range(1 if create else 2):
        opened = writer.Writer(tmp_path / "mendflow.db", 1_000, Damage())
        opened.open()
        assert made[-1].execute("pragma synchronous").fetchone() == (2,)
        assert made[-1].execute("pragma journal_mode").fetchone() == ("wal",)
        opened.close()


def test_a_mix_is_between_what_was_synced_and_what_was_written() -> None:
    synced, written = b"a" * 1024, b"a" * 512 + b"b" * 1024 + b"c"
    assert mixed(synced, written, 0.0, Random(1)) == (synced, 3)
    assert mixed(synced, written, 1.0, Random(1)) == (written, 0)
    made = {mixed(synced, written, 0.5, Random(seed)) for seed in range(100)}
    assert len(made) == 8
    assert (synced + bytes(512) + b"c", 2) in made
