"""The workflows in memory.

Theory of operation. All that happens to workflows happens in *turns* of the
loop: inputs gather in a queue, one callback takes them all, drives the
executions concerned and flushes each once, so that one turn makes one batch.
A turn is never part of a task: workflow code so finds no current task that it
could hang a timeout on, and a caller who hangs up cancels nothing.

A workflow is in memory while anything of it runs or is due soon. It is named
by its id until its first commit, then by its key. What waits longer is
dropped and loaded again when its time or a message comes.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import random
from typing import TYPE_CHECKING, Any

import structlog

from mendflow_server.attempts.attempts import Attempts
from mendflow_server.execution.execution import Execution
from mendflow_server.healing.engine_faults import EngineFaults
from mendflow_server.history.state import FINAL_STATES, History, UnknownEvent
from mendflow_server.runtime.random_bytes import RandomBytes
from mendflow_server.runtime.timers import Timers
from mendflow_server.store.records import Guard, Message, Row
from mendflow_server.store.retrying import RetryingStore

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Iterable, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1 import event_pb2
    from mendflow_server.attempts.attempts import Body, Order
    from mendflow_server.execution.crash_marker import Note
    from mendflow_server.execution.held import Held
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.settings import Settings
    from mendflow_server.store.committer import Committer
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Change, Loaded
    from mendflow_server.telemetry.observer import Observer

log = structlog.get_logger("mendflow.engine")

#: How many workflows one `load` of the store brings in.
LOAD_PAGE = 250
#: At this part of the history limit an alert is raised.
HISTORY_WARNING = 0.8


class CrashBudgetPort:
    """What the engine asks of the crash budget."""

    def holds(self, key: int, step_key: str) -> bool:
        """Whether a suspect must wait for its turn."""
        raise NotImplementedError

    def quarantined(self, key: int, step_key: str) -> int:
        """How many crashes quarantine it now; 0: none do."""
        raise NotImplementedError

    def ended(self, key: int, step_key: str) -> None:
        """A suspect's attempt is closed, or its workflow (no step key) has ended."""
        raise NotImplementedError

    def forgive(self, key: int) -> None:
        """Forget what is held against a workflow."""
        raise NotImplementedError


class Memory:
    """The workflows in memory, and how they come and go."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        store: Store,
        committer: Committer,
        observer: Observer,
        note: Note,
        definitions: Mapping[str, Workflow[Any, Any]],
        replica_id: str,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.store = store
        self.retrying_store = RetryingStore(store)
        self.committer = committer
        committer.after_batch = self._all_told
        self.observer = observer
        self.note = note
        self.definitions = definitions
        self.replica_id = replica_id
        #: A history of so many events is near its limit.
        self.history_warning = HISTORY_WARNING * settings.history_limit
        self.draining = False
        self.suspects = False
        #: Set by the supervisor.
        self.crash_budget: CrashBudgetPort | None = None
        self._loop = asyncio.get_running_loop()
        self.timers = Timers(self._loop, clock.time)
        self.limits = Timers(self._loop, clock.monotonic)
        self.attempts = Attempts(
            clock=clock,
            timers=self.limits,
            slots=settings.attempt_slots,
            threads=settings.thread_slots,
            payload_limit=settings.payload_limit,
            cancel_grace=settings.cancel_grace,
        )
        self.random_bytes = RandomBytes()
        self._random = random.Random()  # noqa: S311 - for jitter
        self._by_id: dict[str, Execution] = {}
        self._by_key: dict[int, Execution] = {}
        self._queue: collections.deque[tuple[Held, Callable[[], None]]] = collections.deque()
        self._dirty: dict[Held, None] = {}
        #: Whose change is on disk, with the attempts that it put on record.
        self._going_on: list[tuple[Held, list[Order]]] = []
        self._turning = False
        self._loading: dict[int, list[Message]] = {}
        #: What is still to be loaded, and whether to retry what the code could not replay.
        self._to_load: dict[int, bool] = {}
        self._loads: set[asyncio.Task[None]] = set()
        self._faults = EngineFaults()
        #: Code of attempts that a fault of our own closed and that has not ended, by the workflow's key.
        self._left_running: dict[int, list[Body]] = {}
        #: Keys are loaded only once the crash budget is known.
        self.loads_open = False

    # Turns.

    def act(self, execution: Held, call: Callable[[], None]) -> None:
        """Let something happen to an execution in this turn, then flush it."""
        execution.queued += 1
        self._queue.append((execution, call))
        self._schedule()

    def go_on(self, execution: Held, orders: list[Order]) -> None:
        """A change is on disk: let what waited for it begin, once all of its batch have been told."""
        self._going_on.append((execution, orders))

    def _all_told(self) -> None:
        """Let those whose changes are on disk go on, stage by stage: all attempts, then what came of them, then the way
        to the disk. Workflow by workflow takes a fifth longer, for the code of all stages does not fit beside the
        processor. Not part of a task: this runs the code of workflows and steps.
        """
        going_on, self._going_on = self._going_on, []
        ended: list[tuple[Held, Body]] = []
        for execution, orders in going_on:
            self._guarded(execution, execution.launch, orders, ended)
        for execution, body in ended:
            if not execution.gone:
                self._guarded(execution, execution.ended_at_once, body)
        self.attempts.task_slots.offer()
        for execution, _ in going_on:
            if execution.queued:
                # More is to happen to it in the next turn, which flushes it.
                self._dirty[execution] = None
                self._schedule()
            elif not execution.gone:
                self._guarded(execution, execution.flush)

    def _schedule(self) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = self.clock.time()
        queue, dirty = self._queue, self._dirty
        try:
            while queue:
                execution, call = queue.popleft()
                execution.queued -= 1
                if execution.gone:
                    continue
                execution.builder.now = now
                dirty[execution] = None
                self._guarded(execution, call)
            self._dirty = {}
            for execution in dirty:
                if not execution.gone:
                    self._guarded(execution, execution.flush)
        finally:
            self._turning = False
            if self._queue or self._dirty:
                self._schedule()

    def _guarded(self, execution: Held, call: Callable[..., None], *arguments: object) -> None:
        """A fault of our own in one workflow must not take the others with it."""
        try:
            call(*arguments)
        except BaseException as error:  # noqa: BLE001 - logged and repaired there; user code may have raised anything
            self.fault(execution, error)

    def fault(self, execution: Held, error: BaseException) -> None:
        """A fault of our own in one workflow: drop it, and take it up again later. The second one pauses it."""
        row = execution.row
        log.error("engine_fault", workflow_id=row.workflow_id, error_id=row.uid, exc_info=error)
        if row.key and not execution.gone:
            self._faults.add(row.key, error)
            self._left_running.setdefault(row.key, []).extend(execution.bodies.values())
        self._drop(execution)
        self.failed(execution)
        self._forget(execution)
        if not execution.in_commit:
            self._load_after_fault(execution)

    def _drop(self, execution: Held) -> None:
        """Drop it, whatever a ``finally`` of its code raises then."""
        try:
            execution.drop()
        except BaseException:
            row = execution.row
            log.exception("engine_fault_in_drop", workflow_id=row.workflow_id, error_id=row.uid)

    def _load_after_fault(self, execution: Held) -> None:
        """Take it up again from what is on disk, later each time."""
        key = execution.row.key
        if key:
            self.limits.after(self._faults.pause(key), lambda: self.load([key]))

    def deliver(self, key: int, message: Message) -> None:
        """A message for this workflow is on disk: have its driver take it in."""
        execution = self._by_key.get(key)
        if execution is not None:
            self.act(execution, lambda: execution.take_in(message))
        elif key in self._loading:
            self._loading[key].append(message)
        else:
            self.load([key])

    # Loading.

    def load(self, keys: Iterable[int], *, retry: bool = False) -> None:
        """Bring workflows in from the store, unless they are here."""
        for key in keys:
            if key not in self._by_key and key not in self._loading:
                self._to_load.setdefault(key, retry)
        if self._to_load and self.loads_open and not self.draining:
            wanted = {key: self._to_load.pop(key) for key in list(self._to_load)[:LOAD_PAGE]}
            self._loading.update((key, []) for key in wanted)
            task = self._loop.create_task(self._load(wanted))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    @property
    def loading(self) -> int:
        """How many workflows are on their way in."""
        return len(self._loading) + len(self._to_load)

    async def _load(self, wanted: dict[int, bool]) -> None:
        try:
            found = await self.retrying_store.load(list(wanted))
        finally:
            missed = [(key, message) for key in wanted for message in self._loading.pop(key, [])]
        for loaded in found:
            self.bring_in(loaded, retry=wanted[loaded.row.key])
        for key, message in missed:
            self.deliver(key, message)
        self.load([])

    def bring_in(self, loaded: Loaded, *, retry: bool = False) -> None:
        """Take a loaded workflow over and let it go on."""
        try:
            self._bring_in(loaded, retry=retry)
        except Exception as error:  # a fault of our own in one workflow must not keep the others out
            row = loaded.row
            log.exception("engine_fault", workflow_id=row.workflow_id, error_id=row.uid)
            self._faults.add(row.key, error)
            self.limits.after(self._faults.pause(row.key), lambda: self.load([row.key]))

    def _bring_in(self, loaded: Loaded, *, retry: bool) -> None:
        row = loaded.row
        if row.state in FINAL_STATES:
            return
        if row.key in self._by_key:
            # The recovery took it over meanwhile, and may have read its inbox before these came.
            for message in loaded.inbox:
                self.deliver(row.key, message)
            return
        faulted = self._faults.judge(loaded)
        if faulted.hopeless:
            self.retrying_store.unreadable.add(row.key)
            log.critical("workflow_left_alone", workflow_id=row.workflow_id, error_id=row.uid, error=faulted.error)
            return
        guard = Guard(row.generation, row.last_sequence)
        workflow = self.definitions.get(row.workflow_type)
        try:
            history = History.of(loaded.events)
        except Exception as error:
            if not isinstance(error, UnknownEvent):
                log.exception("history_not_understood", workflow_id=row.workflow_id)
            history = History()
            history.last_sequence = row.last_sequence
            workflow = None
        mine = _copy(row)
        if row.replica_id != self.replica_id:
            mine.generation += 1
            mine.replica_id = self.replica_id
        execution = Execution(self, mine, history, guard=guard, workflow=workflow)
        self._by_key[row.key] = self._by_id[row.workflow_id] = execution
        for body in self._left_running.pop(row.key, ()):
            if body.running:
                # A thread cannot be stopped: the next attempt waits for it, as after a timeout.
                execution.bodies[body.order.step_key] = body
                body.listener = execution
        self.act(execution, lambda: execution.take_over(loaded, retry=retry, faulted=faulted))

    def try_again(self, execution: Held) -> None:
        """Load a workflow again that is paused because of its code, and resume it if the code fits now."""
        self._drop(execution)
        self._forget(execution)
        self.load([execution.row.key], retry=True)

    def has(self, key: int) -> bool:
        """Return whether a workflow is in memory."""
        return key in self._by_key

    def evict(self, *, at_once: bool = False) -> int:
        """Drop what rests; answer how many. Due ones soon, unless ``at_once``, stay."""
        now, wall = self.clock.monotonic(), self.clock.time()
        patience = 0.0 if at_once else self.settings.evict_after
        gone = [
            execution
            for execution in self._by_key.values()
            if execution.idle
            and execution not in self._dirty
            and now - execution.rested >= patience
            and (execution.row.wake_time is None or execution.row.wake_time / 1e6 > wall + self.settings.evict_after)
        ]
        for execution in gone:
            self._drop(execution)
            self._forget(execution)
        return len(gone)

    # What executions ask of it (`Kernel`).

    def read_inbox(self, execution: Held, then: Callable[[list[Message]], None]) -> None:
        """Read the workflow's inbox, then call back."""

        async def read() -> None:
            loaded = await self.retrying_store.until_done(lambda: self.store.load([execution.row.key]))
            then(loaded[0].inbox if loaded else [])

        task = self._loop.create_task(read())
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    def _forget(self, execution: Held) -> None:
        row = execution.row
        if self._by_id.get(row.workflow_id) is execution:
            del self._by_id[row.workflow_id]
        if self._by_key.get(row.key) is execution:
            del self._by_key[row.key]

    def idempotency_key(self, uid: str, step_key: str) -> str:
        """Answer the key under which a step makes its effect: the same for every attempt."""
        return hashlib.blake2b(f"{uid}|{step_key}".encode(), digest_size=16).hexdigest()

    def attempt_context(self, execution: Held, step_key: str, number: int) -> contextvars.Context:
        """Answer the context variables that an attempt's code starts with."""
        return self.observer.attempt_context(execution.row, execution.history, step_key, number)

    def jitter(self) -> float:
        """Answer a random number from 0 up to 1."""
        return self._random.random()

    def holds(self, key: int, step_key: str) -> bool:
        """Whether a suspect must wait for its turn."""
        return self.crash_budget is not None and self.crash_budget.holds(key, step_key)

    def quarantined(self, key: int, step_key: str) -> int:
        """How many crashes quarantine it now; 0: none do."""
        return 0 if self.crash_budget is None else self.crash_budget.quarantined(key, step_key)

    def suspect_ended(self, key: int, step_key: str) -> None:
        """A suspect's attempt is closed, or its workflow has ended."""
        if self.crash_budget is not None:
            self.crash_budget.ended(key, step_key)

    def forgive(self, key: int) -> None:
        """An operator resumed the workflow: forget what was held against it."""
        if self.crash_budget is not None:
            self.crash_budget.forgive(key)

    def release(self, key: int, step_key: str) -> None:
        """A suspect's turn has come."""
        execution = self._by_key.get(key)
        if execution is None:
            self.load([key])
        elif step_key:
            self.act(execution, lambda: execution.want_again(step_key))
        else:
            self.act(execution, execution.go_on)

    # Ending.

    @property
    def running(self) -> int:
        """How many attempts' code runs."""
        return len(self.attempts.bodies)

    @property
    def workflows_in_memory(self) -> int:
        """How many workflows are in memory."""
        return len(self._by_id)

    def cut_attempts(self) -> None:
        """End what the drain has no more time for: async attempts are closed as lost, threads stay."""
        for execution in list(self._by_key.values()):
            self.act(execution, execution.hand_over)

    @property
    def settled(self) -> bool:
        """Whether everything that happened is on disk."""
        return not self._queue and not self._dirty and self.committer.idle

    def close(self) -> None:
        """Let go of everything."""
        for execution in list(self._by_id.values()):
            self._drop(execution)
        self._by_id.clear()
        self._by_key.clear()
        self.attempts.close()
        self.timers.close()
        self.limits.close()
        for task in self._loads:
            task.cancel()

    # What the engine makes of what executions tell it (`Kernel`).

    def committed(self, execution: Held, change: Change, events: list[event_pb2.Event], *, fresh: bool) -> None:
        """A change is on disk."""
        raise NotImplementedError

    def finished(self, execution: Held, final: event_pb2.Event) -> None:
        """The workflow's end is on disk."""
        raise NotImplementedError

    def taken(self, execution: Held) -> None:
        """A new workflow's id proved taken."""
        raise NotImplementedError

    def lost(self, execution: Held, *, damaged: bool) -> None:
        """Another driver has the workflow; or the file is ``damaged`` where it lies."""
        raise NotImplementedError

    def failed(self, execution: Held) -> None:
        """A fault of our own dropped it."""
        raise NotImplementedError


def _copy(row: Row) -> Row:
    return Row(**{name: getattr(row, name) for name in Row.__slots__})
