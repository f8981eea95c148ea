"""The engine: the workflows in memory, and the verbs on them.

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
import uuid
from typing import TYPE_CHECKING, Any

import structlog

from mendflow.codec import same_payload
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server import errors
from mendflow_server.attempts import Attempts
from mendflow_server.execution import Execution
from mendflow_server.history import FINAL_STATES, History, UnknownEvent
from mendflow_server.port import Ending
from mendflow_server.store.protocol import Guard, InboxKind, Message, Row, Verdict
from mendflow_server.timers import Timers

if TYPE_CHECKING:
    import contextvars
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from mendflow.v1 import payload_pb2, workflow_service_pb2
    from mendflow.workflow import Workflow
    from mendflow_server.clock import Clock
    from mendflow_server.commit import Committer
    from mendflow_server.kernel import Observer
    from mendflow_server.note import Note
    from mendflow_server.port import StartCommand
    from mendflow_server.settings import Settings
    from mendflow_server.store.protocol import Change, Cursor, Filter, Loaded, Page, Store
    from mendflow_server.watch import WatchHub

log = structlog.get_logger("mendflow.engine")

#: How many workflows one `load` of the store brings in.
LOAD_PAGE = 250

Started = tuple[Row, bool]


class Engine:
    """The workflows of this process."""

    def __init__(  # noqa: PLR0913 - the composition root calls it once
        self,
        *,
        settings: Settings,
        clock: Clock,
        store: Store,
        committer: Committer,
        watchers: WatchHub,
        observer: Observer,
        note: Note,
        definitions: Mapping[str, Workflow[Any, Any]],
        replica_id: str,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.store = store
        self.committer = committer
        self.watchers = watchers
        self.observer = observer
        self.note = note
        self.definitions = definitions
        self.replica_id = replica_id
        self.start_time = clock.time()
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
        self._random = random.Random()  # noqa: S311 - for jitter
        self._by_id: dict[str, Execution] = {}
        self._by_key: dict[int, Execution] = {}
        self._queue: collections.deque[tuple[Execution, Callable[[], None]]] = collections.deque()
        self._dirty: dict[Execution, None] = {}
        self._turning = False
        self._starts: dict[Execution, list[tuple[asyncio.Future[Started], StartCommand]]] = {}
        self._end_waits: dict[int, set[asyncio.Future[Ending | None]]] = {}
        self._taken_waits: dict[int, asyncio.Future[None]] = {}
        #: Callers who wait for a commit, and until when (monotonic).
        self._patience: collections.deque[tuple[float, asyncio.Future[Any]]] = collections.deque()
        self._loading: dict[int, list[Message]] = {}
        self._to_load: dict[int, tuple[str, bool]] = {}
        self._loads: set[asyncio.Task[None]] = set()
        #: Keys are loaded only once the crash budget is known.
        self.loads_open = False

    # Turns.

    def act(self, execution: Execution, call: Callable[[], None]) -> None:
        """Let something happen to an execution in this turn, then flush it."""
        self._queue.append((execution, call))
        self._schedule()

    def touch(self, execution: Execution) -> None:
        """Flush it in this turn."""
        self._dirty[execution] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = self.clock.time()
        queue, dirty = self._queue, self._dirty
        while queue:
            execution, call = queue.popleft()
            if execution.gone:
                continue
            execution.journal.now = now
            dirty[execution] = None
            self._guarded(execution, call)
        self._dirty = {}
        for execution in dirty:
            if not execution.gone:
                self._guarded(execution, execution.flush)
        self._turning = False
        if self._queue or self._dirty:
            self._schedule()

    def _guarded(self, execution: Execution, call: Callable[[], None]) -> None:
        """A fault of our own in one workflow must not take the others with it."""
        try:
            call()
        except Exception:
            log.exception("engine_fault", workflow_id=execution.row.workflow_id, error_id=execution.row.uid)
            execution.drop()
            self._forget(execution)
            for future, _ in self._starts.pop(execution, []):
                if not future.done():
                    future.set_exception(errors.InternalFault(execution.row.uid))

    # Starting.

    def start(self, command: StartCommand) -> asyncio.Future[Started]:
        """Start a workflow; the future has its row, and whether it is new, once it is on disk.

        Raises `Draining`, `StoreNotCommitting` and `TooManyOpenRuns`; the future `AlreadyStarted` and
        `StoreNotCommitting`.
        """
        self._refuse_if_unable()
        future: asyncio.Future[Started] = self._loop.create_future()
        existing = self._by_id.get(command.workflow_id)
        if existing is not None:
            waiting = self._starts.get(existing)
            if waiting is not None:
                waiting.append((future, command))
                self._be_patient(future)
            else:
                self._answer(future, command, existing.row, existing.history.started)
            return future
        if len(self._by_id) >= self.settings.open_runs_limit and not self.evict(at_once=True):
            raise errors.TooManyOpenRuns(self.settings.open_runs_limit)
        execution = self._new_execution(command)
        self._by_id[command.workflow_id] = execution
        self._starts[execution] = [(future, command)]
        self._be_patient(future)
        self.act(execution, lambda: self._begin(execution, command))
        return future

    def _new_execution(self, command: StartCommand) -> Execution:
        row = Row(
            key=0,
            workflow_id=command.workflow_id,
            uid=uuid.uuid4().hex,
            workflow_type=command.definition.name,
            state=workflow_pb2.WORKFLOW_STATE_PENDING,
            reason=0,
            explanation="",
            generation=1,
            replica_id=self.replica_id,
            last_sequence=0,
            wake_time=None,
            create_time=round(self.clock.time() * 1e6),
            end_time=None,
            untaken_signals=0,
            trace_id=command.trace.trace_id,
            labels=command.labels,
        )
        return Execution(self, row, History(), guard=None, workflow=command.definition)

    def _begin(self, execution: Execution, command: StartCommand) -> None:
        row = execution.row
        event = execution.journal.new()
        detail = event.workflow_started
        detail.workflow_type = row.workflow_type
        detail.uid = row.uid
        detail.workflow_id = row.workflow_id
        detail.trace.CopyFrom(command.trace)
        if command.input is not None and command.input.WhichOneof("kind"):
            detail.input.CopyFrom(command.input)
        for name, value in command.labels.items():
            detail.labels[name] = value
        execution.journal.add(event)
        execution.begin(command.argument)

    def _answer(
        self, future: asyncio.Future[Started], command: StartCommand, row: Row, started: event_pb2.Event | None
    ) -> None:
        """Answer a start whose id is taken: the same, or something else."""
        if future.done():
            return
        if row.workflow_type != command.definition.name:
            future.set_exception(errors.AlreadyStarted(row.workflow_id, "type"))
        elif started is None or not same_payload(_input_of(started), command.input):
            future.set_exception(errors.AlreadyStarted(row.workflow_id, "input"))
        else:
            future.set_result((row, False))

    def _refuse_if_unable(self) -> None:
        if self.draining:
            raise errors.Draining
        if self.committer.failing:
            raise errors.StoreNotCommitting(self.committer.failing)

    def _be_patient(self, future: asyncio.Future[Any]) -> None:
        self._patience.append((self.clock.monotonic() + self.settings.commit_patience, future))

    def lose_patience(self) -> None:
        """Answer those who have waited too long for a commit (the supervisor's tick calls it)."""
        now = self.clock.monotonic()
        while self._patience and (self._patience[0][0] <= now or self._patience[0][1].done()):
            _, future = self._patience.popleft()
            if not future.done():
                future.set_exception(errors.StoreNotCommitting(self.committer.failing or "the store is slow"))
                future.exception()  # Whoever asked may be gone.

    # Asking.

    async def find(self, workflow_id: str) -> Row:
        """Answer a workflow's row as it is on disk. Raises `WorkflowNotFound`."""
        execution = self._by_id.get(workflow_id)
        if execution is not None and execution.guard is not None and not execution.gone:
            return execution.row
        row = (await self.store.find([workflow_id])).get(workflow_id)
        if row is None:
            raise errors.WorkflowNotFound(workflow_id)
        return row

    async def get(self, workflow_id: str, *, wait: float) -> Ending:
        """Answer a workflow with its first and, if it has ended, its final event; may wait for that."""
        row = await self.find(workflow_id)
        if wait > 0 and row.state not in FINAL_STATES:
            row = (await self.wait_end(row, wait)).row
        started = await self._event(row.key, 1)
        final = await self._event(row.key, row.last_sequence) if row.state in FINAL_STATES else None
        return Ending(row, started, final)

    async def wait_end(self, row: Row, wait: float) -> Ending:
        """Wait for the end, or that long, or for a drain; answer the row as it is then."""
        if row.state not in FINAL_STATES and wait > 0 and not self.draining:
            future: asyncio.Future[Ending | None] = self._loop.create_future()
            waits = self._end_waits.setdefault(row.key, set())
            waits.add(future)
            timer = self._loop.call_later(wait, _give_up, future)
            try:
                if row.key not in self._by_key:
                    row = await self.find(row.workflow_id)
                if row.state not in FINAL_STATES:
                    ending = await future
                    if ending is not None:
                        return ending
                    row = await self.find(row.workflow_id)
            finally:
                timer.cancel()
                waits.discard(future)
                if not waits and self._end_waits.get(row.key) is waits:
                    del self._end_waits[row.key]
        final = await self._event(row.key, row.last_sequence) if row.state in FINAL_STATES else None
        return Ending(row, None, final)

    async def _event(self, key: int, sequence: int) -> event_pb2.Event | None:
        found = await self.store.read_events(key, sequence - 1, limit=1, max_bytes=1)
        return event_pb2.Event.FromString(found[0]) if found else None

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Answer a page of rows, newest first."""
        return await self.store.list_workflows(condition, limit=limit, after=after)

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Answer stored events after a sequence."""
        return await self.store.read_events(key, after_sequence, limit=limit, max_bytes=max_bytes)

    def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int]
    ) -> AsyncIterator[workflow_service_pb2.WatchWorkflowResponse]:
        """Yield frames of a workflow's events to its end."""
        return self.watchers.watch(workflow_id, after_sequence=after_sequence, kinds=kinds)

    # Messages.

    async def signal(
        self, workflow_id: str, *, name: str, data: payload_pb2.Payload | None, request_id: str, actor: str
    ) -> bool:
        """Send a signal; answer whether its request id had been seen before."""
        content = event_pb2.SignalReceived(name=name, request_id=request_id, actor=actor)
        if data is not None and data.WhichOneof("kind"):
            content.data.CopyFrom(data)
        verdict, _ = await self._send(workflow_id, InboxKind.SIGNAL, request_id, content.SerializeToString())
        if verdict is Verdict.FULL:
            raise errors.TooManySignals(workflow_id, self.settings.untaken_signals_limit)
        if verdict is Verdict.ENDED:
            row = await self.find(workflow_id)
            raise errors.WorkflowEnded(workflow_id, row.state)
        return verdict is Verdict.DUPLICATE and bool(request_id)

    async def cancel(self, workflow_id: str, *, reason: str, request_id: str, actor: str) -> Row:
        """Ask for the end; answer the row as it is then."""
        row = await self.find(workflow_id)
        if row.state == workflow_pb2.WORKFLOW_STATE_CANCELLING:
            return row
        content = event_pb2.CancelRequested(actor=actor, reason=reason, request_id=request_id)
        return await self._command(row, InboxKind.CANCEL, content, workflow_pb2.WORKFLOW_STATE_CANCELLED)

    async def resume(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """Let a stopped workflow go on; answer the row as it is then."""
        row = await self.find(workflow_id)
        stopped = (workflow_pb2.WORKFLOW_STATE_PAUSED, workflow_pb2.WORKFLOW_STATE_QUARANTINED)
        if row.state not in FINAL_STATES and row.state not in stopped:
            raise errors.WrongState(workflow_id, row.state, "only a PAUSED or QUARANTINED workflow can be resumed")
        content = event_pb2.WorkflowResumed(actor=actor, reason=reason)
        return await self._command(row, InboxKind.RESUME, content, None)

    async def terminate(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """End a workflow in any open state; answer the row as it is then."""
        row = await self.find(workflow_id)
        content = event_pb2.WorkflowTerminated(actor=actor, reason=reason)
        return await self._command(row, InboxKind.TERMINATE, content, workflow_pb2.WORKFLOW_STATE_TERMINATED)

    async def _command(self, row: Row, kind: InboxKind, content: Any, wanted: int | None) -> Row:
        """Send a message and, if it does not take long, wait until its driver has taken it in.

        A workflow that has ended already is refused, unless it is in the ``wanted`` state.
        """
        if row.state not in FINAL_STATES:
            verdict, message_id = await self._send(row.workflow_id, kind, "", content.SerializeToString())
            if verdict is Verdict.DONE:
                future = self._taken_waits.setdefault(message_id, self._loop.create_future())
                timer = self._loop.call_later(self.settings.commit_patience, _give_up, future)
                try:
                    await asyncio.shield(future)
                finally:
                    timer.cancel()
                    self._taken_waits.pop(message_id, None)
                return await self.find(row.workflow_id)
            row = await self.find(row.workflow_id)
        if row.state != wanted:
            raise errors.WorkflowEnded(row.workflow_id, row.state)
        return row

    async def _send(self, workflow_id: str, kind: InboxKind, request_id: str, content: bytes) -> tuple[Verdict, int]:
        self._refuse_if_unable()
        # Always with a request id, so that a commit of unknown outcome can be sent again.
        message = Message(
            0, workflow_id, kind, request_id or f"auto-{uuid.uuid4().hex}", round(self.clock.time() * 1e6), content
        )
        future: asyncio.Future[tuple[Verdict, int]] = self._loop.create_future()
        self._be_patient(future)
        self.committer.message(message, lambda *told: self._sent(future, *told))
        verdict, message_id = await asyncio.shield(future)
        if verdict is Verdict.MISSING:
            raise errors.WorkflowNotFound(workflow_id)
        if verdict is Verdict.LOST:
            raise errors.InternalFault(message.request_id)
        return verdict, message_id

    def _sent(
        self,
        future: asyncio.Future[tuple[Verdict, int]],
        message: Message,
        verdict: Verdict,
        key: int,
        message_id: int,
    ) -> None:
        if verdict is Verdict.DONE:
            if message.kind is not InboxKind.SIGNAL:
                self._taken_waits.setdefault(message_id, self._loop.create_future())
            self.deliver(
                key,
                Message(
                    message_id, message.workflow_id, message.kind, message.request_id, message.time, message.content
                ),
            )
        if not future.done():
            future.set_result((verdict, message_id))

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

    def load(self, keys: Iterable[int], *, stop: str = "", retry: bool = False) -> None:
        """Bring workflows in from the store, unless they are here."""
        for key in keys:
            if key not in self._by_key and key not in self._loading:
                self._to_load.setdefault(key, (stop, retry))
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

    async def _load(self, wanted: dict[int, tuple[str, bool]]) -> None:
        try:
            for loaded in await self.store.load(list(wanted)):
                self.bring_in(loaded, *wanted[loaded.row.key])
        finally:
            for key in wanted:
                self._missed(key, self._loading.pop(key, []))
            self.load([])

    def _missed(self, key: int, messages: list[Message]) -> None:
        for message in messages:
            self.deliver(key, message)

    def bring_in(self, loaded: Loaded, stop: str = "", retry: bool = False) -> None:  # noqa: FBT001, FBT002 - as in `load`
        """Take a loaded workflow over and let it go on."""
        row = loaded.row
        if row.key in self._by_key or row.state in FINAL_STATES:
            return
        guard = Guard(row.generation, row.last_sequence)
        workflow = self.definitions.get(row.workflow_type)
        try:
            history = History.of(loaded.events)
        except UnknownEvent:
            history = History()
            history.last_sequence = row.last_sequence
            workflow = None
        mine = _copy(row)
        if row.replica_id != self.replica_id:
            mine.generation += 1
            mine.replica_id = self.replica_id
        execution = Execution(self, mine, history, guard=guard, workflow=workflow)
        self._by_key[row.key] = self._by_id[row.workflow_id] = execution
        self.act(execution, lambda: execution.take_over(loaded, stop=stop, retry=retry))

    def reload(self, execution: Execution, stop: str) -> None:
        """Drop it and load it again, to be stopped for this reason."""
        execution.stop_reason = stop
        execution.drop()
        if not execution.in_commit:
            self._reload(execution)

    def _reload(self, execution: Execution) -> None:
        self._forget(execution)
        if execution.row.key:
            self.load([execution.row.key], stop=execution.stop_reason)

    def evict(self, *, at_once: bool = False) -> int:
        """Drop what rests; answer how many. Due ones soon, unless ``at_once``, stay."""
        now, wall = self.clock.monotonic(), self.clock.time()
        patience = 0.0 if at_once else self.settings.evict_after
        gone = [
            execution
            for execution in self._by_key.values()
            if execution.idle
            and now - execution.rested >= patience
            and (execution.row.wake_time is None or execution.row.wake_time / 1e6 > wall + self.settings.evict_after)
        ]
        for execution in gone:
            execution.drop()
            self._forget(execution)
        return len(gone)

    # What executions tell (`Kernel`).

    def committed(self, execution: Execution, change: Change, events: list[event_pb2.Event], *, fresh: bool) -> None:
        """A change is on disk."""
        row = change.row
        if fresh:
            self._became_durable(execution, row)
        self.watchers.publish(row.key, events, ended=change.final)
        for message_id in change.taken:
            taken = self._taken_waits.get(message_id)
            if taken is not None and not taken.done():
                taken.set_result(None)
        if change.alerts:
            for event in events:
                if event.HasField("alert_raised"):
                    self.observer.alert(row, event)
        if not fresh and events and events[0].HasField("workflow_recovered"):
            self.observer.workflow_recovered(row, events[0])
        if execution.gone and not change.final:
            self._reload(execution)

    def _became_durable(self, execution: Execution, row: Row) -> None:
        """A new workflow's start is on disk: whoever waits for that is told."""
        if not execution.gone:
            self._by_key[row.key] = execution
        self.observer.workflow_started(row)
        for index, (future, command) in enumerate(self._starts.pop(execution, [])):
            if index == 0 and not future.done():
                future.set_result((row, True))
            else:
                self._answer(future, command, row, execution.history.started)

    def finished(self, execution: Execution, final: event_pb2.Event) -> None:
        """The workflow's end is on disk."""
        row = execution.row
        if self.suspects:
            self.suspect_ended(row.key, "")
        execution.drop()
        self._forget(execution)
        self.observer.workflow_ended(row, execution.history, final)
        for future in self._end_waits.pop(row.key, ()):
            if not future.done():
                future.set_result(Ending(row, None, final))

    def taken(self, execution: Execution) -> None:
        """A new workflow's id proved taken: answer with the one there is."""
        self._forget(execution)
        waiting = self._starts.pop(execution, [])
        task = self._loop.create_task(self._answer_taken(execution.row.workflow_id, waiting))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _answer_taken(
        self, workflow_id: str, waiting: list[tuple[asyncio.Future[Started], StartCommand]]
    ) -> None:
        try:
            row = await self.find(workflow_id)
            started = await self._event(row.key, 1)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for future, _ in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for future, command in waiting:
            self._answer(future, command, row, started)

    def lost(self, execution: Execution) -> None:
        """Another driver has the workflow."""
        log.warning("workflow_lost", workflow_id=execution.row.workflow_id, generation=execution.row.generation)
        self._forget(execution)

    def read_inbox(self, execution: Execution, then: Callable[[list[Message]], None]) -> None:
        """Read the workflow's inbox, then call back."""

        async def read() -> None:
            loaded = await self.store.load([execution.row.key])
            then(loaded[0].inbox if loaded else [])

        task = self._loop.create_task(read())
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    def _forget(self, execution: Execution) -> None:
        row = execution.row
        if self._by_id.get(row.workflow_id) is execution:
            del self._by_id[row.workflow_id]
        if self._by_key.get(row.key) is execution:
            del self._by_key[row.key]

    def idempotency_key(self, uid: str, step_key: str) -> str:
        """Answer the key under which a step makes its effect: the same for every attempt."""
        return hashlib.sha256(f"{uid}|{step_key}".encode()).hexdigest()[:32]

    def attempt_context(self, execution: Execution, step_key: str, number: int) -> contextvars.Context:
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

    def begin_drain(self) -> None:
        """Start nothing more; answer those who wait for an end with what there is."""
        self.draining = True
        for waits in list(self._end_waits.values()):
            for future in waits:
                if not future.done():
                    future.set_result(None)

    @property
    def running(self) -> int:
        """How many attempts' code runs."""
        return len(self.attempts.bodies)

    @property
    def open_runs(self) -> int:
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
            execution.drop()
        self._by_id.clear()
        self._by_key.clear()
        self.timers.close()
        self.limits.close()
        for task in self._loads:
            task.cancel()


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


def _input_of(started: event_pb2.Event) -> payload_pb2.Payload | None:
    detail = started.workflow_started
    return detail.input if detail.HasField("input") else None


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _copy(row: Row) -> Row:
    return Row(**{name: getattr(row, name) for name in Row.__slots__})
