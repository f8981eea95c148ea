"""The health of the server: whether it is ready, and whether it is alive.

*Ready* means that work is moving: the store commits, the event loop runs in time, the supervisor ticks, recovery has
finished, and no drain has begun. It decides whether callers are sent here. *Alive* means only that the event loop runs
and the supervisor ticks. An orchestrator restarts a process that is not alive, so a database outage or a full disk must
never change this answer.

`judge` is the rule, and is pure. `HealthMonitor.probe` applies it. A server that was not ready becomes ready again
after several good probes in a row, so that its readiness does not flap.
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

__all__ = ["HealthInputs", "HealthMonitor", "HealthStatus", "judge"]

log = structlog.get_logger("mendflow.health")

#: The interval between probes, in seconds. What a longer gap adds to it is the lag of the event loop.
INTERVAL: Final = 0.5
#: The interval while the server is not ready and no probe has been good.
INTERVAL_NOT_READY: Final = INTERVAL / 25


@dataclass(frozen=True, slots=True)
class HealthInputs:
    """The facts that `judge` decides by. Ages are in seconds."""

    #: The age of the batch that is being committed; None when everything is committed.
    oldest_uncommitted_age: float | None
    last_commit_age: float
    last_tick_age: float
    recovered: bool
    draining: bool
    #: Why the store does not commit; empty when it does.
    store_failure: str
    #: What part of the store is damaged, and what to do; empty when no damage is known.
    store_damage: str = ""
    #: The number of attempts with hung code: they are closed, and their code still runs.
    attempts_hung: int = 0
    #: The settings of the slots that hung code holds entirely.
    slots_exhausted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """An answer to one of the two questions. ``reasons`` is empty when the answer is yes."""

    ok: bool
    reasons: tuple[str, ...] = ()
    #: What an operator should know although the answer may be yes.
    warnings: tuple[str, ...] = ()


def judge(inputs: HealthInputs, loop_lag: float, settings: Settings) -> tuple[HealthStatus, HealthStatus]:
    """Return the status of (ready, alive). ``loop_lag`` is in seconds."""
    stuck = [
        f"{what} for {age:.1f} s (limit {settings.liveness_limit:g} s)"
        for what, age in (
            ("the supervisor has not ticked", inputs.last_tick_age),
            ("the event loop was blocked", loop_lag),
        )
        if age > settings.liveness_limit
    ]
    reasons = list(stuck)
    if inputs.draining:
        reasons.append("the server is shutting down")
    if not inputs.recovered:
        reasons.append("recovery in progress")
    if (inputs.oldest_uncommitted_age or 0.0) > settings.commit_age_limit:
        reasons.append(
            f"a commit has been pending for {inputs.oldest_uncommitted_age:.1f} s "
            f"(limit {settings.commit_age_limit:g} s)"
            f"{'' if inputs.store_failure else '; check what keeps the disk busy'}"
        )
    elif inputs.last_commit_age > settings.commit_age_limit + settings.probe_interval:
        reasons.append(f"the store has not committed for {inputs.last_commit_age:.1f} s")
    if reasons and inputs.store_failure:
        reasons.append(inputs.store_failure)
    if inputs.store_damage and inputs.store_damage not in reasons:
        # The server still serves the readable part, but callers should not send work to a file that must be replaced.
        reasons.append(inputs.store_damage)
    if loop_lag > settings.loop_lag_limit:
        reasons.append(f"the event loop was {loop_lag:.1f} s late (limit {settings.loop_lag_limit:g} s)")
    reasons += [
        f"the code of closed attempts holds all slots and as many again ({name}); fix the steps that hang, and restart "
        "the server"
        for name in inputs.slots_exhausted
    ]
    hung = inputs.attempts_hung
    warnings = (f"closed attempts whose code still runs: {hung}",) if hung else ()
    return HealthStatus(not reasons, tuple(reasons), warnings), HealthStatus(not stuck, tuple(stuck))


class HealthMonitor:
    """Probes the health, keeps the latest answers, and publishes them over gRPC."""

    def __init__(self, clock: Clock, settings: Settings, inputs: Callable[[], HealthInputs]) -> None:
        self._clock = clock
        self._settings = settings
        self._inputs = inputs
        #: Good probes in a row.
        self._good = settings.good_probes
        #: When the next probe is due, by the monotonic clock.
        self._expected: float | None = None
        # The first good probe makes a new server ready, since nothing had failed before.
        self._never_ready = True
        self.servicer = HealthServicer()
        self.ready = HealthStatus(ok=False, reasons=("the server is starting",))
        self.alive = HealthStatus(ok=True)

    def probe(self, loop_lag: float = 0.0) -> None:
        """Probe once. ``loop_lag`` is the lag of the event loop, in seconds."""
        inputs = self._inputs()
        ready, self.alive = judge(inputs, loop_lag, self._settings)
        self._good = self._good + 1 if ready.ok else 0
        if not ready.ok:
            if self.ready.ok and not inputs.draining:
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
        """Probe at every interval until cancelled. While a server starts, the interval is short."""
        while True:
            lag = 0.0 if self._expected is None else max(0.0, self._clock.monotonic() - self._expected)
            self.probe(lag)
            pause = INTERVAL if self.ready.ok or self._good else INTERVAL_NOT_READY
            self._expected = self._clock.monotonic() + pause
            await asyncio.sleep(pause)
