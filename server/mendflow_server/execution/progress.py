"""What attempts and workflow code report while they run: heartbeats and progress.

The history records at most one report per second and source, and always the
last one. A source is a step, by its key, or the workflow's own code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow_server.store.records import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mendflow_server.attempts.running_attempt import RunningAttempt
    from mendflow_server.execution.unit_of_work import UnitOfWork
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.replay.workflow_runner import WorkflowRunner
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.runtime.timers import Timer, Timers

#: The least time between two recorded reports of one source, in seconds.
REPORT_INTERVAL: Final = 1.0
#: The source that stands for the workflow's own code.
_WORKFLOW: Final = ""


class Progress:
    """The reports of one workflow. ``timers`` go by the monotonic clock; ``wake`` is called when a report is due."""

    __slots__ = ("_builder", "_clock", "_last_heartbeats", "_reported", "_timer", "_timers", "_unit", "_wake")

    def __init__(
        self,
        builder: HistoryBuilder,
        unit: UnitOfWork,
        clock: Clock,
        timers: Timers,
        wake: Callable[[], None],
    ) -> None:
        self._builder = builder
        self._unit = unit
        self._clock = clock
        self._timers = timers
        self._wake = wake
        #: When each source was last recorded, in monotonic seconds.
        self._reported: dict[str, float] = {}
        self._last_heartbeats: dict[str, bytes] = {}
        self._timer: Timer | None = None

    @property
    def waiting(self) -> bool:
        """Whether a report waits for its time."""
        return self._timer is not None

    def last_heartbeat(self, step_key: str) -> bytes:
        """Return the details of a step's newest heartbeat, as stored; empty: there is none."""
        return self._last_heartbeats.get(step_key, b"")

    def restore(self, heartbeats: Iterable[Heartbeat]) -> None:
        """Take over the heartbeats of a workflow that was loaded."""
        for heartbeat in heartbeats:
            self._last_heartbeats[heartbeat.step_key] = heartbeat.details

    def offer(self, attempt: RunningAttempt) -> None:
        """Record an attempt's newest report, now or when the interval has passed."""
        if self._is_time(attempt.request.step_key):
            self.record(attempt)

    def offer_workflow(self, runner: WorkflowRunner) -> None:
        """Record the newest report of the workflow's own code, now or when the interval has passed."""
        if self._is_time(_WORKFLOW):
            self.record_workflow(runner)

    def record(self, attempt: RunningAttempt) -> None:
        """Record an attempt's newest report."""
        key, number = attempt.request.step_key, attempt.request.number
        heartbeat, progress = attempt.take_report()
        if heartbeat is not None:
            self._last_heartbeats[key] = heartbeat
            self._unit.keep_heartbeat(Heartbeat(key, number, heartbeat))
        if progress is not None:
            event = self._builder.new()
            detail = event.progress_reported
            detail.step_key, detail.attempt = key, number
            detail.done, detail.total, detail.message = progress
            self._builder.add(event)

    def record_workflow(self, runner: WorkflowRunner) -> None:
        """Record the newest report of the workflow's own code, if there is one."""
        report = runner.take_progress()
        if report is None:
            return
        self._reported[_WORKFLOW] = self._clock.monotonic()
        event = self._builder.new()
        detail = event.progress_reported
        detail.report, detail.done, detail.total, detail.message = report
        self._builder.add(event)

    def record_due(self, running: Mapping[str, RunningAttempt], runner: WorkflowRunner | None) -> None:
        """Record every report that waited for its time."""
        self._timer = None
        now = self._clock.monotonic()
        for key, attempt in running.items():
            if not attempt.closed and (attempt.heartbeat_details is not None or attempt.progress is not None):
                self._reported[key] = now
                self.record(attempt)
        if runner is not None:
            self.record_workflow(runner)

    def close_step(self, step_key: str) -> None:
        """Forget when a step was last recorded, because its attempt is closed."""
        self._reported.pop(step_key, None)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_time(self, source: str) -> bool:
        """Return whether a source may be recorded now; otherwise arm the timer."""
        last = self._reported.get(source)
        now = self._clock.monotonic()
        if last is None or now - last >= REPORT_INTERVAL:
            self._reported[source] = now
            return True
        if self._timer is None:
            self._timer = self._timers.after(REPORT_INTERVAL, self._wake)
        return False
