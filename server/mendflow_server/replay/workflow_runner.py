"""Driving workflow code: replay, then live, by one rule.

Theory of operation. A run owns the coroutine of a workflow function and drives
it by hand with ``send``; it is never a task of the event loop. What the code
awaits is a `Call`, which gets a key and blocks its *fiber* (the function
itself, or a branch of a gather) until the call has an outcome in the history.

The law of delivery: of all calls now awaited whose outcomes are recorded, the
one with the lowest sequence is delivered; the code runs until it blocks; then
look again. Live, every new outcome has a higher sequence than all before and
is delivered as soon as it is recorded, so live and replay deliver the same
outcomes in the same order, and the code sees the same world. A cancel request
is an outcome that is always awaited. What is cancelled is closed by an event
too, and learnt of at that event's sequence.

When a drive comes to rest and the code does not fit the history, by the rule of
`mendflow_server.replay.claims`, `NonDeterminism` is raised, and the engine takes back
what the drive added. With nothing unclaimed the run is live: new calls run.

A run has no clock, randomness or I/O: the builder carries the time, values are
recorded. It asks for steps through `wanted` and `unwanted`; the engine acts on
them once the run has come to rest and their events are on disk.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from typing import TYPE_CHECKING, Any

from mendflow.authoring.calls import Call, Gather, SignalWait, Sleep
from mendflow.authoring.context import RUN
from mendflow.authoring.names import VERSION
from mendflow.authoring.step import StepCall
from mendflow.codec import oversize
from mendflow.errors import PayloadError, SignalTimeout, StepFailed
from mendflow.v1 import failure_pb2, payload_pb2
from mendflow_server.history.timestamps import set_time
from mendflow_server.replay.claims import Claims, opened
from mendflow_server.replay.fibers import Fiber, Group, explained, not_durable
from mendflow_server.replay.inputs import input_problem, is_unstable
from mendflow_server.replay.unawaited import Unawaited

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1.event_pb2 import Event
    from mendflow_server.history.builder import HistoryBuilder
    from mendflow_server.history.state import CallRecord

#: What the cancel request is called among the keys; no call has it.
CANCEL = ""
#: What to do about another input.
SAME_INPUT = (
    "Nothing new was started. The code must call it with the same input in each replay; serve code that does, then "
    "resume the workflow."
)


class NonDeterminism(BaseException):
    """The code no longer makes the calls that the history records. Not for workflow code to catch."""


class WorkflowRunner:
    """One workflow's code, in memory."""

    __slots__ = (
        "_awaiting",
        "_broken",
        "_claims",
        "_context",
        "_current",
        "_fibers",
        "_made",
        "_payload_limit",
        "_ready",
        "_reports",
        "_root",
        "_runnable",
        "_signal_waits",
        "_unawaited",
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
        self, workflow: Workflow[Any, Any], builder: HistoryBuilder, argument: object, *, payload_limit: int
    ) -> None:
        self.workflow = workflow
        self.builder = builder
        self.history = builder.history
        #: Steps that are awaited and need an attempt: the call and its recorded input.
        self.wanted: dict[str, tuple[StepCall[Any], payload_pb2.Payload]] = {}
        #: Those of them that were asked for since the engine last looked.
        self.newly_wanted: list[str] = []
        #: Steps whose attempt is to be cancelled.
        self.unwanted: list[str] = []
        #: The workflow's newest progress report: number, done, total, message.
        self.progress: tuple[int, int, int, str] | None = None
        self.driving = False
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._payload_limit = payload_limit
        self._reports = 0
        self._awaiting: dict[str, tuple[Fiber, Call[Any]]] = {}
        self._signal_waits: dict[str, list[str]] = {}
        #: Signals that are there for waits which were asked for since the last look.
        self._unmatched: dict[str, None] = {}
        self._ready: list[tuple[int, str]] = []
        self._broken: NonDeterminism | None = None
        self._claims = Claims(self.history.calls)
        self._unawaited = Unawaited()
        self._made = self._unawaited.calls  # Near at hand: each call passes here twice.
        self._versions: dict[str, bool] = {}
        self._context = contextvars.Context()
        self._context.run(RUN.set, self)
        function = workflow.function
        #: All that have not ended.
        self._fibers: set[Fiber] = set()
        self._root = Fiber(function() if workflow.input_type is None else function(argument), "")
        self._fibers.add(self._root)
        #: Fibers to run before the one that is delivered to next, the last one first.
        self._runnable: list[tuple[Fiber, Any, BaseException | None]] = []
        self._current = self._root

    # What the engine calls.

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
        """Replay what is recorded and go on until the code waits for something new. Raises `NonDeterminism`."""
        if self.history.cancel:
            heapq.heappush(self._ready, (self.history.cancel, CANCEL))
        self._runnable.append((self._root, None, None))
        self._drive(self._run_runnable)

    def outcome_recorded(self, key: str) -> None:
        """An outcome of this call was added to the builder: deliver it."""
        if key in self._awaiting:
            self._push(key)
            self._context.run(self._settle, None)

    def cancel_recorded(self) -> None:
        """The cancel request was added to the builder: deliver it."""
        heapq.heappush(self._ready, (self.history.cancel, CANCEL))
        self._drive()

    def signal_recorded(self, name: str) -> None:
        """A signal was added to the builder: hand it to who waits longest, if anyone does."""
        self._match_signals(name)
        self._drive()

    @property
    def unclaimed(self) -> list[str]:
        """The recorded calls that the code has not asked for, each with its event's number."""
        return self._claims.labels

    @property
    def inserted(self) -> list[str]:
        """The marked calls that the code has asked for before recorded ones."""
        return self._claims.inserted

    def close(self) -> None:
        """Drop the code without running any more of it.

        What a ``finally`` of the code would await is refused by `current_run`.
        """
        while self._fibers:
            fiber = self._fibers.pop()
            if not fiber.done:
                fiber.done = True
                try:
                    self._context.run(fiber.drop)
                except BaseException:  # noqa: BLE001, S112 - a finally may raise anything, and the code has ended
                    continue
        # The context holds the run that holds it: memory would be free again only when the collector finds that.
        self._context = contextvars.Context()

    # What authoring verbs call while the code runs (mendflow.authoring.context.RunPort).

    @property
    def time(self) -> float:
        """The builder's time."""
        return self.builder.now

    def call_made(self, call: object) -> None:
        """Note a call that the code has made; it must await it before it ends."""
        self._made[call] = self._current

    def forgotten(self, what: str) -> None:
        """Note that the code has dropped something that it had to await."""
        self._unawaited.coroutines.append(what)

    def record_value(self, name: str, make: Callable[[], str]) -> str:
        """Return the recorded value, or record a new one."""
        key = self._current.key(name)
        recorded = self._value(key)
        return self._record_value(key, make()) if recorded is None else recorded

    def version(self, name: str) -> bool:
        """Return the decision of this name. The first asking decides, for as long as the workflow lives."""
        decided = self._versions.get(name)
        if decided is None:
            key = f"{VERSION}{name}"
            recorded = self._value(key)
            if recorded is None and not self._claims.unclaimed:
                recorded = self._record_value(key, "true")
            # Without a record it is the same in each replay: what is unclaimed here was recorded before.
            decided = self._versions[name] = recorded == "true"
        return decided

    def _value(self, key: str) -> str | None:
        """Return the JSON text recorded under a key, None for none."""
        record = self.history.calls.get(key)
        if record is None:
            return None
        if record.kind != "value" or record.outcome is None:
            self._broken = NonDeterminism(f"{opened(record)}: called as a value")
            raise self._broken
        return record.outcome.value_recorded.value.json

    def _record_value(self, key: str, text: str) -> str:
        event = self.builder.new()
        event.value_recorded.key = key
        event.value_recorded.value.json = text
        self.builder.add(event)
        return event.value_recorded.value.json

    def report_progress(self, done: int, total: int, message: str) -> None:
        """Keep the newest report; those that the history has are passed over."""
        self._reports += 1
        if self._reports > self.history.reports:
            self.progress = (self._reports, done, total, message)

    # Driving.

    def _drive(self, first: Callable[[], None] | None = None) -> None:
        self._context.run(self._settle, first)

    def _settle(self, first: Callable[[], None] | None) -> None:
        self.driving = True
        try:
            if first is not None:
                first()
            while not self.done:
                if not self._ready:
                    if not self._unmatched:
                        break
                    self._take_signals()
                    continue
                _, key = heapq.heappop(self._ready)
                if key == CANCEL:
                    self._cancel(self._root)
                    continue
                fiber, call = self._awaiting.pop(key)
                self.wanted.pop(key, None)
                value, error = self._outcome(fiber, call, self.history.calls[key])
                self._run_fiber(fiber, value, error)
                if self._runnable:
                    self._run_runnable()
        finally:
            self.driving = False
        problem = self._claims.problem(done=self.done, error=self.error) if self._claims.unclaimed else ""
        if problem:
            raise NonDeterminism(problem)

    def _run_runnable(self) -> None:
        """Run each fiber that can run because another one has blocked or ended.

        A stack in place of recursion: gathers may be nested to any depth.
        """
        while self._runnable:
            fiber, value, error = self._runnable.pop()
            if fiber.begun or self._may_begin(fiber):
                self._run_fiber(fiber, value, error)

    def _may_begin(self, fiber: Fiber) -> bool:
        """Return whether a branch may begin: not once another branch of its gather has failed."""
        group = fiber.group
        if group is None or group.failure is None:
            fiber.begun = True
            return True
        fiber.done = True
        self._fibers.discard(fiber)
        for call in fiber.drop():
            self._unawaited.calls.pop(call, None)
        self._one_less(group)
        return False

    def _run_fiber(self, fiber: Fiber, value: Any, error: BaseException | None) -> None:
        """Run a fiber until it blocks or ends."""
        code = fiber.code
        fiber.blocked = None
        if error is not None:
            self._unawaited.release_kept(fiber)
        while True:
            self._current = fiber
            try:
                asked = code.send(value) if error is None else code.throw(error)
            except StopIteration as stop:
                self._end(fiber, stop.value, None)
                return
            except NonDeterminism:
                raise
            except BaseException as raised:  # noqa: BLE001 - an exception that leaves a branch belongs to its gather
                self._end(fiber, None, explained(raised))
                return
            if self._broken is not None:
                raise self._broken
            value = None
            try:
                error = self._ask(fiber, asked)
            except (TypeError, ValueError, PayloadError) as refused:
                error = refused
            if error is None:
                return

    def _end(self, fiber: Fiber, value: Any, error: BaseException | None) -> None:
        if self._broken is not None:
            raise self._broken
        fiber.done = True
        self._fibers.discard(fiber)
        group = fiber.group
        if group is None:
            if error is None:
                error = self._unawaited.error()
            self.done, self.value, self.error = True, value, error
            return
        if error is not None:
            self._unawaited.release_kept(fiber)
        if error is None or group.return_exceptions:
            group.results[fiber.index] = value if error is None else error
        elif group.failure is None:
            group.failure = error
            if not group.cancelled:
                group.cancelled = True
                for other in group.fibers:
                    self._cancel(other)
        self._one_less(group)

    def _one_less(self, group: Group) -> None:
        """Count a branch that has ended, and resume the gather's owner after the last one."""
        group.remaining -= 1
        if group.remaining == 0:
            self._runnable.append((group.owner, *self._gathered(group)))

    def _gathered(self, group: Group) -> tuple[Any, BaseException | None]:
        if group.owner.cancelled:
            group.owner.cancelled = False
            return None, asyncio.CancelledError()
        return group.results, group.failure

    # Asking.

    def _ask(self, fiber: Fiber, asked: object) -> BaseException | None:
        """Block the fiber on what it asks for, or return the error to raise at that line."""
        if isinstance(asked, StepCall):
            self._made.pop(asked, None)
            return self._ask_step(fiber, asked)
        if not isinstance(asked, Call):
            return not_durable(fiber.code, asked)
        self._unawaited.calls.pop(asked, None)
        if isinstance(asked, Sleep):
            self._ask_sleep(fiber, asked)
        elif isinstance(asked, SignalWait):
            self._ask_signal(fiber, asked)
        elif isinstance(asked, Gather):
            self._ask_gather(fiber, asked)
        else:
            return not_durable(fiber.code, asked)
        return None

    def _ask_step(self, fiber: Fiber, call: StepCall[Any]) -> BaseException | None:
        step = call.step
        payload = step.arguments.encode(call.args, call.kwargs)
        size = oversize(payload, self._payload_limit)
        if size:
            msg = f"the input of step {step.name} has {size} bytes; the limit is {self._payload_limit}"
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
            # A callee refuses a known idempotency key that comes with other parameters.
            payload = record.input or payload_pb2.Payload()
        if record is None or record.outcome is None:
            self.wanted[key] = (call, payload)
            self.newly_wanted.append(key)
        else:
            self._push(key)
        return None

    def _hint(self, call: StepCall[Any]) -> str:
        """Return what may have led to another input, as a further sentence; empty for nothing in particular."""
        if call.step.inserted and not call.step.key:
            return ". An inserted call of a name that is recorded needs a key of its own: with_options(key=...)"
        started = self.history.started
        value_type = self.workflow.input_type
        if started is not None and value_type is not None and is_unstable(value_type, started.workflow_started.input):
            return (
                ". The workflow's input has a default that is another value each time; give it a constant one, and "
                "make the value with uuid4(), random() or now() in the workflow"
            )
        return ""

    def _ask_sleep(self, fiber: Fiber, call: Sleep) -> None:
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

    def _ask_signal(self, fiber: Fiber, call: SignalWait[Any]) -> None:
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
            # A recorded outcome that is still to be delivered may end this wait, and must not cost a signal.
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
        """Hand the signals that are there to the waits that still stand; record those that are left over."""
        names, self._unmatched = self._unmatched, {}
        for name in names:
            self._match_signals(name)
            for key in self._signal_waits[name]:
                if key not in self.history.calls:
                    _, call = self._awaiting[key]
                    if isinstance(call, SignalWait):
                        self._record_wait(key, call)

    def _ask_gather(self, fiber: Fiber, call: Gather) -> None:
        scope = fiber.key(call.key or "gather")
        group = Group(fiber, len(call.branches), return_exceptions=call.return_exceptions)
        fiber.blocked = group
        for index, branch in enumerate(call.branches):
            group.fibers.append(Fiber.of_branch(branch, f"{scope}[{index}]/", group, index))
        self._fibers.update(group.fibers)
        if group.fibers:
            self._runnable.extend((child, None, None) for child in reversed(group.fibers))
        else:
            self._runnable.append((fiber, [], None))

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

    def _match_signals(self, name: str) -> None:
        waits = self._signal_waits.get(name)
        while waits and self.history.mailbox.get(name):
            key = waits.pop(0)
            record = self.history.calls.get(key)
            if record is not None and record.outcome is not None:
                continue  # It timed out or was cancelled.
            event = self.builder.new()
            event.signal_taken.key = key
            event.signal_taken.signal_sequence = self.history.mailbox[name][0]
            self.builder.add(event)
            self._push(key)

    # Outcomes.

    def _outcome(self, fiber: Fiber, call: Call[Any], record: CallRecord) -> tuple[Any, BaseException | None]:
        """Answer what the call's line gets: a value, or an error to raise."""
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
            msg = f"{opened(record)}: the recorded result does not fit the step's type any more: {error}"
            raise NonDeterminism(msg) from error

    def _signal_data(self, call: SignalWait[Any], event: Event) -> tuple[Any, BaseException | None]:
        signal = self.history.signals[event.signal_taken.signal_sequence]
        data = signal.data if signal.HasField("data") else None
        try:
            return call.value_type.decode(self.workflow.signal_payload(call.name, data)), None
        except PayloadError as error:
            return None, error

    def _error(self, record: CallRecord, event: Event) -> BaseException | None:
        """Answer what an outcome that is no value raises; None for a timer."""
        if event.HasField("attempt_failed"):
            if event.attempt_failed.decision.action == failure_pb2.RETRY_ACTION_CANCEL_STEP:
                return asyncio.CancelledError()
            return StepFailed(record.key, event.attempt_failed.failure)
        if event.HasField("signal_timed_out"):
            return SignalTimeout(record.name)
        return asyncio.CancelledError() if event.HasField("call_cancelled") else None

    # Cancelling.

    def _cancel(self, fiber: Fiber) -> None:
        """Make what the fiber waits for end in CancelledError."""
        waiting = [fiber]
        while waiting:
            each = waiting.pop()
            if each.done or each.blocked is None:
                continue
            each.cancelled = True
            if isinstance(each.blocked, Group):
                each.blocked.cancelled = True
                waiting.extend(reversed(each.blocked.fibers))
            else:
                self._cancel_call(each.blocked)

    def _cancel_call(self, key: str) -> None:
        record = self.history.calls.get(key)
        if record is not None and record.outcome is not None:
            return  # It is closed already, and about to be delivered.
        self.wanted.pop(key, None)
        if record is not None and record.started is not None:
            self.unwanted.append(key)
            return
        event = self.builder.new()
        event.call_cancelled.key = key
        self.builder.add(event)
        self._push(key)
