"""SIGKILL at random under load: hundreds of workflows, signals, cancels and watchers live through many deaths.

MENDFLOW_SEED=number selects another story. A failure names its seed. The kills come at moments of progress, so two runs
of a seed are similar but not equal.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import failure_pb2
from tests.crash.load import Load
from tests.support.load_workflows import EFFECTS
from tests.support.promises import Evidence, broken, delays, read_effects, read_store
from tests.support.scale import scaled
from tests.support.servers import serving_process
from tests.support.stories import draw_stories, wrong_ends
from tests.support.watchers import unfaithful

if TYPE_CHECKING:
    from pathlib import Path

COUNT = scaled(300, 3_000)
KILLS = scaled(10, 50)
#: The time limit of one run, in seconds.
LIMIT = scaled(180, 900)
#: What this many parallel workflows may add to each time limit, in seconds: they wait for threads and for each other.
CROWD = 1.0
SEEDS = [int(os.environ["MENDFLOW_SEED"])] if os.environ.get("MENDFLOW_SEED") else list(range(1, scaled(1, 4) + 1))


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_or_done_twice_by_random_kills(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    stories = draw_stories(rng, count=COUNT, lives=KILLS + 1)
    with serving_process(tmp_path, modules=("tests.support.load_workflows",)) as server:
        load = Load(server, stories)
        try:
            async with asyncio.timeout(LIMIT):
                await load.run(rng, kills=KILLS)
        except TimeoutError:
            server.kill()
            pytest.fail(f"MENDFLOW_SEED={seed}: {load.unfinished()} have not ended after {LIMIT} s")
        server.kill()  # Everything acknowledged must be stored now.
        stored = read_store(server.store)
        effects = read_effects(tmp_path / EFFECTS)
    lives = load.lives
    deaths = [replace(death, up=up) for death, up in zip(load.deaths, lives[1:], strict=True)]
    evidence = Evidence(
        stored,
        effects,
        load.cast.replies,
        load.cast.watched,
        deaths,
        allowance=CROWD,
        stalled=load.pressure.between,
    )
    wrong = [str(each) for each in broken(evidence)]
    wrong += [each for watch in load.cast.raw for each in unfaithful(watch, stored.histories[watch.workflow_id])]
    wrong += wrong_ends(stories, load.cast.ends)
    assert not wrong, "\n".join([f"MENDFLOW_SEED={seed}", *wrong])
    events = [event for history in stored.histories.values() for event in history]
    assert stored.rows.keys() == {story.workflow_id for story in stories}
    assert not [event for event in events if event.HasField("workflow_quarantined")], (
        "no workflow is quarantined for kills from outside"
    )
    # There was load, and the deaths interrupted attempts, calls, watches and recoveries.
    assert len(load.kills) == KILLS
    lost = sum(event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST for event in events)
    late = delays(evidence)
    assert late, "at least one life lasted long enough for a verdict"
    recovering = sum(kill.recovering for kill in load.kills)
    print(  # noqa: T201 - the proof's figures
        f"\nseed {seed}: {len(stored.rows)} workflows, {len(events)} events, {len(effects)} executions, "
        f"{lost} of them lost, {len(load.cast.watched)} watches, {len(load.cast.raw)} of them bare, "
        f"{len(load.cast.replies)} answers; "
        f"open at the deaths: {[kill.open_stories for kill in load.kills]}, "
        f"calls: {[kill.calls for kill in load.kills]}; "
        f"{recovering} kills in the middle of a recovery; {len(late)} debts at a restart were paid "
        f"{statistics.median(late):.3f} s after the process was up, at the latest {max(late):.3f} s"
    )
    assert lost > KILLS
    assert sum(kill.open_stories for kill in load.kills) > 2 * COUNT
    assert sum(kill.calls for kill in load.kills) > COUNT
    assert sum(kill.calls > 0 for kill in load.kills) >= KILLS // 2
    assert sum(not watch.ended for death in deaths for watch in death.watched) > COUNT // 2
    assert 2 * len(load.cast.raw) > len(load.cast.watched) // 2
    assert recovering >= max(1, KILLS // 10)
    # No life was killed while it imported.
    assert len(lives) == KILLS + 1
    assert all(up < (death.time or 0.0) for up, death in zip(lives, load.deaths, strict=False))
