"""What every execution shares with the others of its process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.v1.failure_pb2 import RetryDecision
    from mendflow_server.attempts.attempt_runner import AttemptRunner
    from mendflow_server.execution.crash_marker import CrashMarker
    from mendflow_server.execution.dispatcher import Dispatcher
    from mendflow_server.execution.inbox_reader import InboxReader
    from mendflow_server.healing.admission import AdmissionGate
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timers
    from mendflow_server.settings import Settings
    from mendflow_server.store.committer import Committer
    from mendflow_server.telemetry.observer import Observer

__all__ = ["Services"]

#: A workflow raises an alert when its history reaches this part of its limit.
_HISTORY_WARNING = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of the server that executions use."""

    settings: Settings
    clock: Clock
    #: By the wall clock, for durable times.
    wall_timers: Timers
    #: By the monotonic clock, for intervals within this process.
    monotonic_timers: Timers
    committer: Committer
    attempts: AttemptRunner
    dispatcher: Dispatcher
    admission: AdmissionGate
    observer: Observer
    crash_marker: CrashMarker
    inbox: InboxReader
    #: Decides what follows a failed attempt (`mendflow.authoring.failures.retry.decide`).
    decide: Callable[..., RetryDecision]
    #: Returns a random number from 0 up to 1, for the jitter of retries.
    random: Callable[[], float]

    #: The number of events at which a workflow raises an alert.
    history_warning: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "history_warning", _HISTORY_WARNING * self.settings.history_limit)
