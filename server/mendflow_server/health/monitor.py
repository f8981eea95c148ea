"""Honest health: two questions, two answers.

*Ready* asks whether work is moving: the store commits, the loop turns in time,
the supervisor ticks, recovery is done, no drain has begun. It decides whether
calls are sent here. *Alive* asks only whether the loop turns and the
supervisor ticks; whoever restarts processes asks this one, so that a database
outage or a full disk never makes it kill a process that has done nothing wrong.

`judge` is the rule, pure. `HealthMonitor.probe` applies it; a lost readiness
comes back after some good probes in a row, so that it does not flap.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.health.servicer import LIVENESS, READY_NAMES, HealthServicer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.runtime.clock import Clock
    from mendflow_server.settings import Settings

__all__ = ["HealthMonitor", "Signals", "Verdict", "judge"]

log = structlog.get_logger("mendflow.health")

#: How often the monitor looks, in seconds; a longer gap is the loop's lag.
LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Signals:
    """What health is judged by. Ages are in seconds."""

    #: Of the batch that is on its way to the disk; None: all is there.
    oldest_uncommitted_age: float | None
    last_commit_age: float
    last_tick_age: float
    recovered: bool
    draining: bool
    #: Why the store does not commit; empty: it does.
    store_failure: str
    #: What of the store is damaged, and what to do; empty: nothing that is known.
    store_damage: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, and why it is no."""

    ok: bool
    reasons: tuple[str, ...] = ()


def judge(signals: Signals, loop_lag: float, settings: Settings) -> tuple[Verdict, Verdict]:
    """Answer (ready, alive)."""
    stuck = [
        f"{what} for {age:.1f} s (limit {settings.liveness_limit:g} s)"
        for what, age in (("the supervisor has not ticked", signals.last_tick_age), ("the loop stood still", loop_lag))
        if age > settings.liveness_limit
    ]
    reasons = list(stuck)
    if signals.draining:
        reasons.append("the server drains")
    if not signals.recovered:
        reasons.append("the server still takes over what was under way")
    if (signals.oldest_uncommitted_age or 0.0) > settings.commit_age_limit:
        reasons.append(
            f"a batch has waited {signals.oldest_uncommitted_age:.1f} s for its commit "
            f"(limit {settings.commit_age_limit:g} s)"
            f"{'' if signals.store_failure else '; look for what keeps the disk busy'}"
        )
    elif signals.last_commit_age > settings.commit_age_limit + settings.probe_interval:
        reasons.append(f"the store has not committed for {signals.last_commit_age:.1f} s")
    if reasons and signals.store_failure:
        reasons.append(signals.store_failure)
    if signals.store_damage and signals.store_damage not in reasons:
        # What can be read is still served, but no work should be sent to a file that must be replaced.
        reasons.append(signals.store_damage)
    if loop_lag > settings.loop_lag_limit:
        reasons.append(f"the event loop was {loop_lag:.1f} s late (limit {settings.loop_lag_limit:g} s)")
    return Verdict(not reasons, tuple(reasons)), Verdict(not stuck, tuple(stuck))


class HealthMonitor:
    """Looks at the signals and says what they mean."""

    def __init__(self, clock: Clock, settings: Settings, signals: Callable[[], Signals]) -> None:
        self._clock = clock
        self._settings = settings
        self._signals = signals
        self._good = settings.good_probes
        self._expected: float | None = None
        # The first readiness needs no run of good probes: nothing had gone wrong.
        self._never_ready = True
        self.servicer = HealthServicer()
        self.ready = Verdict(ok=False, reasons=("the server has just started",))
        self.alive = Verdict(ok=True)

    def probe(self, loop_lag: float = 0.0) -> None:
        """Look once."""
        signals = self._signals()
        ready, self.alive = judge(signals, loop_lag, self._settings)
        self._good = self._good + 1 if ready.ok else 0
        if not ready.ok:
            if self.ready.ok and not signals.draining:
                log.warning("not_ready", reasons=ready.reasons)
            self.ready = ready
        elif self._good >= self._settings.good_probes or self._never_ready:
            if not self.ready.ok and not self._never_ready:
                log.info("ready_again")
            self.ready = ready
            self._never_ready = False
        self.servicer.set(LIVENESS, serving=self.alive.ok)
        for name in READY_NAMES:
            self.servicer.set(name, serving=self.ready.ok)

    async def run(self) -> None:
        """Look every now and then, until cancelled. A start is noticed at once."""
        while True:
            lag = 0.0 if self._expected is None else max(0.0, self._clock.monotonic() - self._expected)
            self.probe(lag)
            pause = LOOK if self.ready.ok or self._good else LOOK / 25
            self._expected = self._clock.monotonic() + pause
            await asyncio.sleep(pause)
