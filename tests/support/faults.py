"""A server with a fault: the real server, without the mechanism of one promise.

The checker must report each fault under its promise's name. A fault replaces parts of the server through their
constructors (`mendflow_server.app.Parts`). Nothing in the shipped server can switch it on. There are also disturbances.
They look similar but break no promise, because the real mechanism is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support import clock_faults, commit_faults, engine_faults, health_faults, watch_faults
from tests.support.build import Build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FAULTS: Final[dict[str, Callable[[Build], Build]]] = {
    fault.__name__: fault
    for fault in (
        commit_faults.reply_before_commit,
        commit_faults.slow_commits,
        engine_faults.no_generation_check,
        engine_faults.no_generation_check_on_postgres,
        engine_faults.two_engines,
        engine_faults.attempt_without_record,
        watch_faults.dropped_frame,
        watch_faults.repeated_frame,
        engine_faults.timer_lost_on_recovery,
        engine_faults.result_run_again,
        commit_faults.lost_answer_taken_for_failure,
        commit_faults.lost_answer,
        commit_faults.commit_not_synced,
        commit_faults.commit_synced_late,
        commit_faults.frequent_checkpoints,
        clock_faults.jumping_clock,
        commit_faults.signal_before_commit,
        commit_faults.result_before_commit,
        commit_faults.frame_before_commit,
        engine_faults.slot_kept_in_backoff,
        engine_faults.nothing_leaves_memory,
        engine_faults.attempt_before_its_time,
        engine_faults.no_reason_for_retry,
        health_faults.always_serving,
        health_faults.never_serving_again,
        health_faults.troubled,
    )
}


def build_with(names: Iterable[str], build: Build | None = None) -> Build:
    """Return a build, the shipped one by default, with these faults and disturbances."""
    build = build or Build()
    for name in names:
        build = FAULTS[name](build)
    return build
