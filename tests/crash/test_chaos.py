"""Three replicas on one PostgreSQL: killed, stopped, drained and disconnected, while it restarts too.

MENDFLOW_SEED=number selects another plan and other stories. A failure names its seed. Disturbances come at moments of
progress, so two runs of a seed are similar but not equal. With MENDFLOW_SOAK=1 there are as many seeds as take an hour.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import failure_pb2
from tests.crash.chaos import REPLICAS, Chaos, Disturbance, Kind, Round, draw_plan
from tests.support.postgres import postgres_server
from tests.support.promises import Evidence, Promise, broken
from tests.support.scale import scaled
from tests.support.stories import Moment, draw_stories, wrong_ends
from tests.support.watchers import unfaithful

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof

COUNT = 500
ROUNDS = 24
#: The time limit of one run, in seconds.
LIMIT = 180
SEEDS = [int(os.environ["MENDFLOW_SEED"])] if os.environ.get("MENDFLOW_SEED") else list(range(1, scaled(1, 40) + 1))


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A PostgreSQL server of its own, which the test may restart."""
    with postgres_server() as server:
        yield server


@pytest.mark.timeout(LIMIT + 90)
@pytest.mark.parametrize("seed", SEEDS)
async def test_replicas_lose_nothing_and_do_nothing_twice(tmp_path: Path, database: Postgres, seed: int) -> None:
    rng = Random(seed)
    stories = draw_stories(rng, count=COUNT, lives=ROUNDS + 1)
    plan = draw_plan(rng, rounds=ROUNDS, share=COUNT // (ROUNDS + 1))
    chaos = Chaos(tmp_path, database, stories)
    in_time = await chaos.run(plan, limit=LIMIT)
    stored = await chaos.stored()
    cast, effects = chaos.cast, chaos.effects
    wrong = [] if in_time else [f"{sorted(cast.open)} have not ended after {LIMIT} s"]
    wrong += [str(each) for each in broken(Evidence(stored, effects, cast.replies, cast.watched, chaos.deaths))]
    wrong += [each for watch in cast.raw for each in unfaithful(watch, stored.histories[watch.workflow_id])]
    wrong += wrong_ends([story for story in stories if story.workflow_id in cast.ends], cast.ends)
    wrong += chaos.internal_errors
    wrong += chaos.ended
    assert not wrong, "\n".join([f"MENDFLOW_SEED={seed}", *map(str, plan), *wrong])
    events = [event for history in stored.histories.values() for event in history]
    assert stored.rows.keys() == {story.workflow_id for story in stories}
    assert not [event for event in events if event.HasField("workflow_quarantined")], (
        "no workflow is quarantined for kills from outside"
    )
    # There was load, and the disturbances moved workflows between replicas and calls between clients.
    lost = sum(event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST for event in events)
    moved = sum(event.HasField("workflow_recovered") for event in events)
    kinds = Counter(disturbance.kind for disturbance, _ in chaos.done)
    print(  # noqa: T201 - the proof's figures
        f"\nseed {seed}: {len(stored.rows)} workflows, {len(events)} events, {len(effects)} executions, {lost} of them "
        f"lost, {moved} recoveries, {len(cast.watched)} watches, {len(cast.replies)} answers, {cast.moves} calls that "
        f"moved; {dict(kinds)}; open at them: {[count for _, count in chaos.done]}; "
        f"{chaos.logged('replica_taken_over')} takeovers, {chaos.logged('replica_fenced')} rejoins, "
        f"{chaos.logged('workflow_lost')} writes refused; {len(chaos.refused)} starts "
        f"without a database; drains ended with {chaos.drained}"
    )
    assert kinds.keys() == set(Kind)
    assert lost > ROUNDS
    assert moved > ROUNDS
    assert cast.moves > ROUNDS
    assert sum(count for _, count in chaos.done) > COUNT
    assert chaos.logged("replica_taken_over") >= ROUNDS // 4


@pytest.mark.timeout(120)
@pytest.mark.parametrize("faults", [("no_generation_check_on_postgres",), ()], ids=["with the fault", "without it"])
async def test_missing_generation_check_is_reported(
    tmp_path: Path, database: Postgres, faults: tuple[str, ...]
) -> None:
    stories = draw_stories(Random(7), count=60, lives=1)
    plan = [
        Round(Moment(life, 60), tuple(Disturbance(Kind.STOP, (life + each) % REPLICAS, 3.5) for each in (0, 1)))
        for life in range(3)
    ]
    chaos = Chaos(tmp_path, database, stories, faults=faults)
    # With the fault some workflows may never end.
    await chaos.run(plan, limit=25 if faults else 60)
    stored = await chaos.stored()
    found = broken(Evidence(stored, chaos.effects, chaos.cast.replies, chaos.cast.watched, chaos.deaths))
    assert Promise.ONE_DRIVER in {breach.promise for breach in found} if faults else not found, found
