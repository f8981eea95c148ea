"""SIGKILL at random under load: hundreds of workflows, signals, cancels and watchers live through many deaths.

MENDFLOW_SEED=number tells another story. What fails names its seed; the kills come at moments of progress, so a run is
alike but never the same.
"""

from __future__ import annotations

import asyncio
import os
from random import Random
from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import failure_pb2
from tests.conftest import serving_process
from tests.crash.load import Load
from tests.crash.stories import draw_stories, wrong_ends
from tests.load_workflows import EFFECTS
from tests.promises import Evidence, broken, read_effects, read_store
from tests.scale import scaled

if TYPE_CHECKING:
    from pathlib import Path

COUNT = scaled(300, 3_000)
KILLS = scaled(10, 50)
#: How long one run may take, in seconds.
LIMIT = scaled(90, 900)
SEEDS = [int(os.environ["MENDFLOW_SEED"])] if os.environ.get("MENDFLOW_SEED") else list(range(1, scaled(1, 4) + 1))


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_or_done_twice_by_random_kills(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    stories = draw_stories(rng, count=COUNT, lives=KILLS + 1)
    with serving_process(tmp_path, modules=("tests.load_workflows",)) as server:
        load = Load(server, stories)
        try:
            async with asyncio.timeout(LIMIT):
                await load.run(rng, kills=KILLS)
        except TimeoutError:
            server.kill()
            pytest.fail(f"MENDFLOW_SEED={seed}: {load.unfinished()} have not ended after {LIMIT} s")
        server.kill()  # What was told must be on disk now.
        stored = read_store(server.store)
        effects = read_effects(tmp_path / EFFECTS)
    wrong = [str(each) for each in broken(Evidence(stored, effects, load.told, load.watched))]
    wrong += wrong_ends(stories, {told.workflow_id: told.detail for told in load.told if told.kind == "result"})
    assert not wrong, "\n".join([f"MENDFLOW_SEED={seed}", *wrong])
    events = [event for history in stored.histories.values() for event in history]
    assert stored.rows.keys() == {story.workflow_id for story in stories}
    assert not [event for event in events if event.HasField("workflow_quarantined")], (
        "nobody pays for kills from outside"
    )
    # It was a load, and the deaths cut into it.
    assert len(load.kills) == KILLS
    lost = sum(event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST for event in events)
    print(  # noqa: T201 - the proof's figures
        f"\nseed {seed}: {len(stored.rows)} workflows, {len(events)} events, {len(effects)} executions, "
        f"{lost} of them lost, {len(load.watched)} watches, {len(load.told)} answers; open at the deaths: "
        f"{[death.open_stories for death in load.kills]}, calls: {[death.calls for death in load.kills]}"
    )
    assert lost > KILLS
    assert sum(death.open_stories for death in load.kills) > 2 * COUNT
