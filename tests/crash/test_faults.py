"""The proof of the checker: it reports a server with a fault under the promise's name, and a server without as good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.killing import Point
from tests.support.promises import Promise, broken
from tests.support.trial import SUBJECT, Case, run_trial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.trial import Trial

pytestmark = pytest.mark.proof

#: How long a workflow that ends may take, in seconds. One with a fault may never end.
LIMIT = 4.0

#: The first commit records the process, the second the start.
START = 2


def case(workflow_type: str, value: object, *signals: tuple[str, object]) -> Case:
    """Return a case whose end only the checker judges."""
    return Case(workflow_type, lambda _directory, _port: value, lambda _trial: [], signals=signals)


@dataclass(frozen=True)
class Scene:
    """A fault, where it shows, what exactly must be reported, and the harmless change that comes closest to it."""

    fault: str
    case: Case
    promises: frozenset[Promise]
    fatal: tuple[Point, ...] = ()
    harmless: str = ""


SCENES = [
    Scene(
        "reply_before_commit",
        case("three", "w"),
        # The caller starts the acknowledged workflow again after its uid is lost.
        frozenset({Promise.OUTPUT_COMMIT, Promise.DURABLE_START}),
        fatal=(Point("commit", START, "before"),),
        harmless="slow_commits",
    ),
    Scene(
        "signal_before_commit",
        case("wait_for", "w", ("go", "on")),
        # The signal is lost, and the workflow waits for it forever.
        frozenset({Promise.OUTPUT_COMMIT, Promise.DURABLE_START}),
        fatal=(Point("commit", START + 1, "before"),),
        harmless="slow_commits",
    ),
    Scene(
        "result_before_commit",
        case("holds", 0.2),
        # The caller requests the result while the step runs.
        frozenset({Promise.OUTPUT_COMMIT}),
        fatal=(Point("commit", START + 1, "before"),),
        harmless="slow_commits",
    ),
    Scene(
        "frame_before_commit",
        case("three", "w"),
        # Watchers saw an event, and another one took its place.
        frozenset({Promise.OUTPUT_COMMIT, Promise.ONE_DRIVER, Promise.FAITHFUL_WATCH}),
        fatal=(Point("commit", START + 2, "before"),),
        harmless="slow_commits",
    ),
    Scene(
        "no_generation_check",
        case("holds", 0.6),
        # One engine overwrites the end that the other wrote, and appends to it: two ends, a result and attempts after
        # it, and watchers that saw events that no longer exist.
        frozenset({Promise.ONE_DRIVER, Promise.DURABLE_START, Promise.RECORDED_ONCE, Promise.FAITHFUL_WATCH}),
        harmless="two_engines",
    ),
    Scene("attempt_without_record", case("three", "w"), frozenset({Promise.EVERY_ATTEMPT_ON_RECORD})),
    Scene("attempt_before_its_time", case("retried", 2), frozenset({Promise.EVERY_ATTEMPT_ON_RECORD})),
    Scene("no_reason_for_retry", case("retried", 2), frozenset({Promise.EVERY_ATTEMPT_ON_RECORD})),
    Scene("dropped_frame", case("wait_for", "w", ("go", "on")), frozenset({Promise.FAITHFUL_WATCH})),
    Scene("repeated_frame", case("wait_for", "w", ("go", "on")), frozenset({Promise.FAITHFUL_WATCH})),
    Scene(
        "timer_lost_on_recovery",
        case("sleeper", 0.5),
        frozenset({Promise.RECOVERY_BY_DEFAULT, Promise.DURABLE_START}),
        fatal=(Point("commit", START, "after"),),
    ),
    Scene(
        "result_run_again",
        case("three", "w"),
        # The first attempt runs once more.
        frozenset({Promise.RECORDED_ONCE, Promise.EVERY_ATTEMPT_ON_RECORD}),
        fatal=(Point("effect", 2, "after"),),
    ),
    Scene(
        "lost_answer_taken_for_failure",
        case("three", "w"),
        # No engine drives the workflow: it has no end, and neither has its first attempt.
        frozenset({Promise.DURABLE_START, Promise.EVERY_ATTEMPT_ON_RECORD}),
        harmless="lost_answer",
    ),
]


async def tried(scene: Scene, fault: str, directory: Path) -> Trial:
    trial = await run_trial(scene.case, directory / (fault or "without"), scene.fatal, fault=fault, limit=LIMIT)
    assert len(trial.deaths) == len(scene.fatal), trial.failure
    return trial


@pytest.mark.parametrize("scene", SCENES, ids=[scene.fault for scene in SCENES])
async def test_a_fault_is_reported_by_its_promise(tmp_path: Path, scene: Scene) -> None:
    trial = await tried(scene, scene.fault, tmp_path)
    found = broken(trial.evidence)
    assert {breach.promise for breach in found} == scene.promises, (trial.failure, found)


@pytest.mark.parametrize("scene", SCENES, ids=[scene.fault for scene in SCENES])
async def test_scene_without_the_fault_breaks_no_promise(tmp_path: Path, scene: Scene) -> None:
    trial = await tried(scene, scene.harmless, tmp_path)
    assert not trial.faults
    assert trial.evidence.stored.rows.keys() == {SUBJECT}
