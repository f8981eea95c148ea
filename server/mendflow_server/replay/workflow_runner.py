"""Run workflow code: first replay its history, then run it live, by one rule.

Theory of operation. A runner drives the coroutine of a workflow function with
``send``, by its `FiberDriver`; the coroutine is never a task of the event loop.
The code awaits a `Call`. The call gets a key and blocks its *fiber* (the
function itself, or a branch of a gather) until the history has an outcome for
the call.

The law of delivery: of all awaited calls whose outcomes are recorded, the
runner delivers the one with the lowest sequence, runs the code until it blocks,
and repeats. Live, each new outcome has a higher sequence than all before it,
and the runner delivers it as soon as it is recorded. So live execution and
replay deliver the same outcomes in the same order, and the code cannot
distinguish them. A cancel request is an outcome that is always awaited. An
event also closes a cancelled call, and the code learns of the cancellation at
that event's sequence.

A drive ends when all fibers are blocked or the code has ended. If the code does
not fit the history then, by the rule of `mendflow_server.replay.claims`, the
runner raises `NonDeterminism`, and the engine undoes what the drive added. When
no recorded call is unclaimed, the runner is live and new calls are started.

A runner has no clock, no randomness and no I/O. The builder supplies the time,
and values are recorded. The runner requests steps through `wanted` and
`unwanted`. The engine acts on them after the drive, once their events are
committed.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mendflow.authoring.calls import Call, SignalWait, Sleep
from mendflow.authoring.context import RUN, WorkflowInfo
from mendflow.authoring.fiber_driver import FiberDriver
from mendflow.authoring.fibers import not_durable
from mendflow.authoring.names import VERSION
from mendflow.authoring.step import StepCall
from mendflow.codec import oversize
from mendflow.errors import PayloadError, SignalTimeout, StepFailed
from mendflow.v1 import failure_pb2, payload_pb2
from mendflow_server.history.timestamps import seconds, set_time
from mendflow_server.replay.claims import Claims, opened
from mendflow_server.replay.inputs import input_problem, is_unstable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.authoring.fibers import Fiber, Group
    from mendflow.authoring.workflow import Workflow
    from mendflow.v1.event_pb2 import Event
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.history.state import CallRecord

#: The key of the cancel request; no call has this key.
CANCEL = ""
#: The advice for a call with a different input.
SAME_INPUT = (
    "Nothing new was started. The code must call the step with the same input in every replay. Deploy code that does, "
    "then resume the workflow."
)


class NonDeterminism(BaseException):
    """The code no longer makes the calls that the history records. Workflow code must not catch this."""


class WorkflowRunner:
    """The running code of one workflow."""

    __slots__ = (
        "_awaiting",
        "_claims",
        "_fibers",
        "_is_rehearsal",
        "_payload_limit",
        "_ready",
        "_reports",
        "_signal_waits",
        "_unmatched",
        "_versions",
        "builder",
        "done",
        "driving",
        "error",
        "history",
        "newly_wanted",
        "progress",
        "unwanted",
        "value",
        "wanted",
        "workflow",
    )

    def __init__(
        self,
        workflow: Workflow[Any, Any],
        builder: HistoryBuilder,
        argument: object,
        *,
        payload_limit: int,
        is_rehearsal: bool = False,
    ) -> None:
        self.workflow = workflow
        self.builder = builder
        self.history = builder.history
        #: The awaited steps that need an attempt, by key: the call and its recorded input.
        self.wanted: dict[str, tuple[StepCall[Any], payload_pb2.Payload]] = {}
        #: The keys of those that the code has awaited since the engine last cleared this list.
        self.newly_wanted: list[str] = []
        #: The keys of the steps whose attempts the engine must cancel.
        self.unwanted: list[str] = []
        #: The workflow's newest progress report: number, done, total, message.
        self.progress: tuple[int, int, int, str] | None = None
        self.driving = False
        #: Whether the code has ended, and then what it returned or raised.
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._payload_limit = payload_limit
        self._is_rehearsal = is_rehearsal
        self._reports = 0
        self._awaiting: dict[str, tuple[Fiber, Call[Any]]] = {}
        self._signal_waits: dict[str, list[str]] = {}
        #: The names of waiting signals for which the code has made new waits in this drive.
        self._unmatched: dict[str, None] = {}
        self._ready: list[tuple[int, str]] = []
        self._claims = Claims(self.history.calls)
        self._versions: dict[str, bool] = {}
        context = contextvars.Context()
        context.run(RUN.set, self)
        function = workflow.function
        self._fibers = FiberDriver(
            function() if workflow.input_type is None else function(argument),
            context,
            self._block_on,
            self._cancel_call,
            self._pauses_at_once,
        )

    # The methods that the engine calls.

    def take_newly_wanted(self) -> list[str]:
        """Return the steps that the code has asked for since the last call."""
        taken, self.newly_wanted = self.newly_wanted, []
        return taken

    def take_unwanted(self) -> list[str]:
        """Return the steps that the code has cancelled since the last call."""
        taken, self.unwanted = self.unwanted, []
        return taken

    def take_progress(self) -> tuple[int, int, int, str] | None:
        """Return the newest progress report (number, done, total, message) that was not taken yet."""
        taken, self.progress = self.progress, None
        return taken

    def begin(self) -> None:
        """Replay the history and run until the code waits for a new outcome. Raise `NonDeterminism`."""
        if self.history.cancel:
            heapq.heappush(self._ready, (self.history.cancel, CANCEL))
        self._drive(self._fibers.begin)

    def outcome_recorded(self, key: str) -> None:
        """Deliver the outcome of this call, which was added to the builder."""
        if key in self._awaiting:
            self._push(key)
            self._fibers.context.run(self._settle, None)

    def cancel_recorded(self) -> None:
        """Deliver the cancel request, which was added to the builder."""
        heapq.heappush(self._ready, (self.history.cancel, CANCEL))
        self._drive()

    def signal_recorded(self, name: str) -> None:
        """Deliver a signal, which was added to the builder, to the oldest wait for it, if there is one."""
        self._match_signal(name)
        self._drive()

    @property
    def unclaimed(self) -> list[str]:
        """The recorded calls that the code has not made, each with the number of its event."""
        return self._claims.labels

    @property
    def inserted(self) -> list[str]:
        """The calls marked as inserted that the code has made before recorded ones."""
        return self._claims.inserted

    def close(self) -> None:
        """Drop the code without resuming it."""
        self._fibers.close()

    # The methods that authoring functions call while the code runs (mendflow.authoring.context.CurrentRun).

    @property
    def time(self) -> float:
        """The workflow's time: that of the builder."""
        return self.builder.now

    @property
    def replaying(self) -> bool:
        """Whether recorded calls remain that the code has not made, or the run is a rehearsal."""
        return self._is_rehearsal or bool(self._claims.unclaimed)

    @property
    def info(self) -> WorkflowInfo:
        """What the code may know of its workflow."""
        started = self.history.started
        if started is None:
            msg = "workflow code ran without a WorkflowStarted event"
            raise AssertionError(msg)
        detail = started.workflow_started
        start_time = datetime.fromtimestamp(seconds(started.time), UTC)
        return WorkflowInfo(detail.workflow_id, detail.workflow_type, start_time, dict(detail.labels))

    def call_made(self, call: object) -> None:
        """Record a call that the code has made and must await before it ends."""
        self._fibers.call_made(call)

    def forgotten(self, what: str) -> None:
        """Record something that the code should have awaited and has dropped."""
        self._fibers.forgotten(what)

    def record_value(self, name: str, make: Callable[[], str]) -> str:
        """Return the recorded value, or record a new one."""
        key = self._fibers.current.key(name)
        recorded = self._value(key)
        return self._record_value(key, make()) if recorded is None else recorded

    def version(self, name: str) -> bool:
        """Return the decision with this name. The first call makes it, for the rest of the workflow."""
        decided = self._versions.get(name)
        if decided is None:
            key = f"{VERSION}{name}"
            recorded = self._value(key)
            if recorded is None and not self._claims.unclaimed:
                recorded = self._record_value(key, "true")
            # If it is not recorded, each replay decides alike: the calls unclaimed here were recorded before.
            decided = self._versions[name] = recorded == "true"
        return decided

    def _value(self, key: str) -> str | None:
        """Return the JSON text recorded under a key; None if there is none."""
        record = self.history.calls.get(key)
        if record is None:
            return None
        if record.kind != "value" or record.outcome is None:
            problem = NonDeterminism(f"{opened(record)}: recorded as {record.kind or 'cancelled'}, called as a value")
            self._fibers.broken = problem
            raise problem
        return record.outcome.value_recorded.value.json

    def _record_value(self, key: str, text: str) -> str:
        event = self.builder.new()
        event.value_recorded.key = key
        event.value_recorded.value.json = text
        self.builder.add(event)
        return event.value_recorded.value.json

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Keep the newest report. Ignore the reports that the history has."""
        self._reports += 1
        if self._reports > self.history.reports:
            self.progress = (self._reports, done, total, message)

    # Driving.

    def _drive(self, first: Callable[[], None] | None = None) -> None:
        self._fibers.context.run(self._settle, first)

    def _settle(self, first: Callable[[], None] | None) -> None:
        fibers = self._fibers
        self.driving = True
        try:
            if first is not None:
                first()
            while not fibers.done:
                if not self._ready:
                    if not self._unmatched:
                        break
                    self._take_signals()
                    continue
                _, key = heapq.heappop(self._ready)
                if key == CANCEL:
                    fibers.cancel()
                    continue
                fiber, call = self._awaiting.pop(key)
                self.wanted.pop(key, None)
                value, error = self._outcome(fiber, call, self.history.calls[key])
                fibers.resume(fiber, value, error)
        finally:
            self.driving = False
        if fibers.done:
            self.done, self.value, self.error = True, fibers.value, fibers.error
        problem = self._claims.problem(done=self.done, error=self.error) if self._claims.unclaimed else ""
        if problem:
            raise NonDeterminism(problem)

    def _pauses_at_once(self, group: Group, error: BaseException) -> bool:
        """Return whether an error of a branch ends the code here, because the workflow pauses on errors.

        The cancel of the other branches would be on record, and fixed code could never get their results. What happens
        outside the code may fail a branch as usual.
        """
        if self.workflow.on_error != "pause" or self.history.cancel:
            return False
        is_outcome = isinstance(error, StepFailed | SignalTimeout | asyncio.CancelledError)
        return not is_outcome and not all(other.done for other in group.fibers)

    # Calls.

    def _block_on(self, fiber: Fiber, call: Call[Any]) -> BaseException | None:
        """Block the fiber on the call that it awaits, or return the error to raise there."""
        if isinstance(call, StepCall):
            return self._call_step(fiber, call)
        if isinstance(call, Sleep):
            self._start_timer(fiber, call)
        elif isinstance(call, SignalWait):
            self._await_signal(fiber, call)
        else:
            return not_durable(fiber.code, call)
        return None

    def _call_step(self, fiber: Fiber, call: StepCall[Any]) -> BaseException | None:
        step = call.step
        payload = step.arguments.encode(call.args, call.kwargs)
        size = oversize(payload, self._payload_limit)
        if size:
            msg = f"input of step {step.name}: {size} bytes exceeds the limit of {self._payload_limit}"
            return PayloadError(msg)
        key = fiber.key(step.key or step.name)
        record = self.history.calls.get(key)
        if self._claims.unclaimed:
            self._claims.claim_step(record, key, step, payload)
        self._block(fiber, key, call)
        if record is not None and record.kind:
            self._expect(record, "step", step.name)
            problem = input_problem(step.arguments, record.input, payload)
            if problem:
                raise NonDeterminism(f"{opened(record)}: {problem}{self._hint(call)}. {SAME_INPUT}")
            # Use the recorded input: a callee may reject a known idempotency key with other parameters.
            payload = record.input or payload_pb2.Payload()
        if record is None or record.outcome is None:
            self.wanted[key] = (call, payload)
            self.newly_wanted.append(key)
        else:
            self._push(key)
        return None

    def _hint(self, call: StepCall[Any]) -> str:
        """Return a likely reason for the different input, as a further sentence; empty if none is known."""
        if call.step.inserted and not call.step.key:
            return ". An inserted call of a recorded step needs its own key: with_options(key=...)"
        started = self.history.started
        value_type = self.workflow.input_type
        if started is not None and value_type is not None and is_unstable(value_type, started.workflow_started.input):
            return (
                ". The workflow's input has a default that differs on every read. Use a constant default, and create "
                "the value with uuid4(), random() or now() in the workflow"
            )
        return ""

    def _start_timer(self, fiber: Fiber, call: Sleep) -> None:
        key = fiber.key(call.key or "sleep")
        record = self.history.calls.get(key)
        if self._claims.unclaimed:
            self._claims.claim(record, f"timer {key}", inserted=call.inserted)
        self._block(fiber, key, call)
        if record is None:
            event = self.builder.new()
            event.timer_started.key = key
            set_time(event.timer_started.fire_time, self.builder.now + call.seconds)
            self.builder.add(event)
            return
        self._expect(record, "timer", "")
        if record.outcome is not None:
            self._push(key)

    def _await_signal(self, fiber: Fiber, call: SignalWait[Any]) -> None:
        key = fiber.key(call.key or f"signal:{call.name}")
        record = self.history.calls.get(key)
        if self._claims.unclaimed:
            self._claims.claim(record, f"signal wait {key}", inserted=call.inserted)
        self._block(fiber, key, call)
        if record is not None:
            self._expect(record, "signal", call.name)
            if record.outcome is not None:
                self._push(key)
                return
        if self.history.mailbox.get(call.name):
            # A recorded outcome may end this wait before a signal does, and the wait must not take a signal then.
            self._unmatched[call.name] = None
        elif record is None:
            self._record_wait(key, call)
        self._signal_waits.setdefault(call.name, []).append(key)

    def _record_wait(self, key: str, call: SignalWait[Any]) -> None:
        event = self.builder.new()
        event.signal_awaited.key = key
        event.signal_awaited.name = call.name
        if call.timeout is not None:
            set_time(event.signal_awaited.deadline, self.builder.now + call.timeout)
        self.builder.add(event)

    def _take_signals(self) -> None:
        """Deliver the oldest waiting signal to a new wait that is still open; without one, record the waits.

        One at a time, because the code that gets it may withdraw the other waits, which must not take a signal then.
        """
        mailbox = self.history.mailbox
        waiting = [(mailbox[name][0], name) for name in self._unmatched if mailbox.get(name) and self._open_wait(name)]
        if waiting:
            self._match_signal(min(waiting)[1])
            return
        names, self._unmatched = self._unmatched, {}
        for name in names:
            for key in self._signal_waits[name]:
                if key not in self.history.calls:
                    _, call = self._awaiting[key]
                    if isinstance(call, SignalWait):
                        self._record_wait(key, call)

    def _block(self, fiber: Fiber, key: str, call: Call[Any]) -> None:
        fiber.blocked = key
        self._awaiting[key] = (fiber, call)

    def _push(self, key: str) -> None:
        outcome = self.history.calls[key].outcome
        if outcome is not None:
            heapq.heappush(self._ready, (outcome.sequence, key))

    def _expect(self, record: CallRecord, kind: str, name: str) -> None:
        if record.kind and (record.kind != kind or record.name != name):
            recorded = f"{record.kind} {record.name}".strip()
            msg = f"{opened(record)}: recorded as {recorded}, called as {f'{kind} {name}'.strip()}"
            raise NonDeterminism(msg)

    def _open_wait(self, name: str) -> str:
        """Return the key of the oldest wait for a signal that has no outcome yet; empty if there is none."""
        waits = self._signal_waits.get(name, [])
        while waits:
            record = self.history.calls.get(waits[0])
            if record is None or record.outcome is None:
                return waits[0]
            waits.pop(0)  # The wait timed out or was cancelled.
        return ""

    def _match_signal(self, name: str) -> None:
        """Match the oldest wait for a signal with the oldest signal, if there are both."""
        key, mailbox = self._open_wait(name), self.history.mailbox.get(name)
        if not key or not mailbox:
            return
        self._signal_waits[name].pop(0)
        event = self.builder.new()
        event.signal_taken.key = key
        event.signal_taken.signal_sequence = mailbox[0]
        self.builder.add(event)
        self._push(key)

    # Outcomes.

    def _outcome(self, fiber: Fiber, call: Call[Any], record: CallRecord) -> tuple[Any, BaseException | None]:
        """Return what the awaiting line gets: a value, or an error to raise."""
        event = record.outcome
        if event is None:
            msg = f"{record.key} was delivered without an outcome"
            raise AssertionError(msg)
        if fiber.cancelled:
            fiber.cancelled = False
            return None, asyncio.CancelledError()
        detail = event.WhichOneof("detail")
        if detail == "attempt_succeeded" and isinstance(call, StepCall):
            return self._result(call, record, event), None
        if detail == "signal_taken" and isinstance(call, SignalWait):
            return self._signal_data(call, event)
        return None, self._error(record, event)

    def _result(self, call: StepCall[Any], record: CallRecord, event: Event) -> Any:
        detail = event.attempt_succeeded
        try:
            return call.step.output_type.decode(detail.output if detail.HasField("output") else None)
        except PayloadError as error:
            msg = f"{opened(record)}: the recorded result no longer matches the step's return type: {error}"
            raise NonDeterminism(msg) from error

    def _signal_data(self, call: SignalWait[Any], event: Event) -> tuple[Any, BaseException | None]:
        signal = self.history.signals[event.signal_taken.signal_sequence]
        data = signal.data if signal.HasField("data") else None
        try:
            return call.value_type.decode(self.workflow.signal_payload(call.name, data)), None
        except PayloadError as error:
            return None, error

    def _error(self, record: CallRecord, event: Event) -> BaseException | None:
        """Return the exception of an outcome that is not a value; None for a timer."""
        if event.HasField("attempt_failed"):
            if event.attempt_failed.decision.action == failure_pb2.RETRY_ACTION_CANCEL_STEP:
                return asyncio.CancelledError()
            return StepFailed(record.key, event.attempt_failed.failure)
        if event.HasField("signal_timed_out"):
            return SignalTimeout(record.name)
        return asyncio.CancelledError() if event.HasField("call_cancelled") else None

    # Cancelling.

    def _cancel_call(self, key: str) -> None:
        record = self.history.calls.get(key)
        if record is not None and record.outcome is not None:
            return  # The call has an outcome, which is delivered next.
        self.wanted.pop(key, None)
        if record is not None and record.started is not None:
            self.unwanted.append(key)
            return
        event = self.builder.new()
        event.call_cancelled.key = key
        self.builder.add(event)
        self._push(key)
