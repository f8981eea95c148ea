"""The engine: the verbs on workflows, and who waits for what.

An answer leaves only once what it tells of is on disk: a start's future and an
end's are settled when the committer says so. A caller who hangs up stops
waiting; what was begun goes on.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any

import structlog

from mendflow.codec import same_payload
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server import errors
from mendflow_server.engine.memory import Memory
from mendflow_server.engine.requests import Begun, Ending
from mendflow_server.execution.execution import Execution
from mendflow_server.history.state import FINAL_STATES, History
from mendflow_server.store.records import CommitOutcome, InboxKind, Message, Row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow.v1 import payload_pb2, workflow_service_pb2
    from mendflow_server.engine.requests import StartCommand
    from mendflow_server.engine.watch_hub import WatchHub
    from mendflow_server.execution.held import Held
    from mendflow_server.store.records import Change, Cursor, Filter, Page

log = structlog.get_logger("mendflow.engine")


class Engine(Memory):
    """The workflows of this process, and the verbs on them."""

    def __init__(self, *, watchers: WatchHub, **parts: Any) -> None:
        super().__init__(**parts)
        self.watchers = watchers
        self.start_time = self.clock.time()
        self._starts: dict[Held, list[tuple[asyncio.Future[Begun], StartCommand]]] = {}
        #: Callers whose workflow is on disk and who wait for its end, by its key, with the timers of their patience.
        self._begun: dict[int, tuple[Row, asyncio.Future[Begun], asyncio.TimerHandle]] = {}
        self._end_waits: dict[int, set[asyncio.Future[Ending | None]]] = {}
        self._taken_waits: dict[int, asyncio.Future[None]] = {}
        #: Callers who wait for a commit, and until when (monotonic).
        self._patience: collections.deque[tuple[float, asyncio.Future[Any]]] = collections.deque()

    # Starting.

    def start(self, command: StartCommand) -> asyncio.Future[Begun]:
        """Start a workflow; the future has its row, and whether it is new, once it is on disk.

        For whoever started it, and waits, it has the end as well: that saves a turn of the loop.

        Raises `Draining`, `StoreNotCommitting` and `TooManyWorkflowsInMemory`; the future `AlreadyStarted` and
        `StoreNotCommitting`.
        """
        self._refuse_if_unable()
        future: asyncio.Future[Begun] = self._loop.create_future()
        existing = self._by_id.get(command.workflow_id)
        if existing is not None:
            waiting = self._starts.get(existing)
            if waiting is not None:
                waiting.append((future, command))
                self._be_patient(future)
            elif existing.history.started is None:
                self._answer_later(command.workflow_id, [(future, command)])
            else:
                self._answer(future, command, existing.row, existing.history.started)
            return future
        if len(self._by_id) >= self.settings.workflows_in_memory_limit and not self.evict(at_once=True):
            raise errors.TooManyWorkflowsInMemory(self.settings.workflows_in_memory_limit)
        execution = self._new_execution(command)
        self._by_id[command.workflow_id] = execution
        self._starts[execution] = [(future, command)]
        self._be_patient(future)
        self.act(execution, lambda: self._begin(execution, command))
        return future

    async def room(self) -> None:
        """Let what is under way come first, before more is begun of what is in no hurry."""
        await self.committer.wait_for_capacity()

    def _new_execution(self, command: StartCommand) -> Execution:
        row = Row(
            key=0,
            workflow_id=command.workflow_id,
            uid=self.random_bytes(16).hex(),
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
        event = execution.builder.new()
        detail = event.workflow_started
        detail.workflow_type = row.workflow_type
        detail.uid = row.uid
        detail.workflow_id = row.workflow_id
        detail.trace.CopyFrom(command.trace)
        if command.input is not None and command.input.WhichOneof("kind"):
            detail.input.CopyFrom(command.input)
        for name, value in command.labels.items():
            detail.labels[name] = value
        execution.builder.add(event)
        execution.begin(command.argument)

    def _answer(
        self, future: asyncio.Future[Begun], command: StartCommand, row: Row, started: event_pb2.Event | None
    ) -> None:
        """Answer a start whose id is taken: the same, or something else."""
        if future.done():
            return
        if row.workflow_type != command.definition.name:
            future.set_exception(errors.AlreadyStarted(row.workflow_id, "type"))
        elif started is None or not same_payload(_input_of(started), command.input):
            future.set_exception(errors.AlreadyStarted(row.workflow_id, "input"))
        else:
            future.set_result(Begun(row, started=False))

    def _refuse_if_unable(self) -> None:
        if self.draining:
            raise errors.Draining
        if self.committer.failure:
            raise errors.StoreNotCommitting(self.committer.failure)

    def _be_patient(self, future: asyncio.Future[Any]) -> None:
        self._patience.append((self.clock.monotonic() + self.settings.commit_patience, future))

    def lose_patience(self) -> None:
        """Answer those who have waited too long for a commit (the supervisor's tick calls it)."""
        now = self.clock.monotonic()
        while self._patience and (self._patience[0][0] <= now or self._patience[0][1].done()):
            _, future = self._patience.popleft()
            if not future.done():
                future.set_exception(errors.StoreNotCommitting(self.committer.failure or "the store is slow"))
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
        outcome, _ = await self._send(workflow_id, InboxKind.SIGNAL, request_id, content.SerializeToString())
        if outcome is CommitOutcome.INBOX_FULL:
            raise errors.TooManySignals(workflow_id, self.settings.untaken_signals_limit)
        if outcome is CommitOutcome.WORKFLOW_ENDED:
            row = await self.find(workflow_id)
            raise errors.WorkflowEnded(workflow_id, row.state)
        return outcome is CommitOutcome.DUPLICATE and bool(request_id)

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
            outcome, message_id = await self._send(row.workflow_id, kind, "", content.SerializeToString())
            if outcome is CommitOutcome.COMMITTED:
                future = self._taken_waits.setdefault(message_id, self._loop.create_future())
                timer = self._loop.call_later(self.settings.commit_patience, _give_up, future)
                try:
                    await asyncio.shield(future)
                finally:
                    timer.cancel()
                    self._taken_waits.pop(message_id, None)
            row = await self.find(row.workflow_id)
            if outcome in (CommitOutcome.COMMITTED, CommitOutcome.DUPLICATE):
                # A cancel may be caught, and a resumed workflow may have ended; but a terminate that came to an end
                # has come too late.
                late = kind is InboxKind.TERMINATE and row.state in FINAL_STATES and row.state != wanted
                if not late:
                    return row
        if row.state != wanted:
            raise errors.WorkflowEnded(row.workflow_id, row.state)
        return row

    async def _send(
        self, workflow_id: str, kind: InboxKind, request_id: str, content: bytes
    ) -> tuple[CommitOutcome, int]:
        self._refuse_if_unable()
        # Always with a request id, so that a commit of unknown outcome can be sent again.
        message = Message(
            0,
            workflow_id,
            kind,
            request_id or f"auto-{self.random_bytes(16).hex()}",
            round(self.clock.time() * 1e6),
            content,
        )
        future: asyncio.Future[tuple[CommitOutcome, int]] = self._loop.create_future()
        self._be_patient(future)
        self.committer.submit_message(message, lambda *told: self._sent(future, *told))
        outcome, message_id = await asyncio.shield(future)
        if outcome is CommitOutcome.NOT_FOUND:
            raise errors.WorkflowNotFound(workflow_id)
        if outcome is CommitOutcome.DAMAGED:
            raise errors.StoreNotCommitting(self.store.damage)
        if outcome is CommitOutcome.CONFLICT:
            raise errors.InternalFault(message.request_id)
        return outcome, message_id

    def _sent(
        self,
        future: asyncio.Future[tuple[CommitOutcome, int]],
        message: Message,
        outcome: CommitOutcome,
        key: int,
        message_id: int,
    ) -> None:
        if outcome is CommitOutcome.COMMITTED:
            if message.kind is not InboxKind.SIGNAL:
                self._taken_waits.setdefault(message_id, self._loop.create_future())
            self.deliver(
                key,
                Message(
                    message_id, message.workflow_id, message.kind, message.request_id, message.time, message.content
                ),
            )
        if outcome is CommitOutcome.DUPLICATE:
            # Perhaps our own, of a commit whose answer was lost: its driver may not know of it.
            self._check_inbox(key)
        if not future.done():
            future.set_result((outcome, message_id))

    def _check_inbox(self, key: int) -> None:
        execution = self._by_key.get(key)
        if execution is None:
            self.load([key])
            return

        def then(messages: list[Message]) -> None:
            for message in messages:
                self.deliver(key, message)

        self.read_inbox(execution, then)

    # What executions tell (`Kernel`).

    def committed(self, execution: Held, change: Change, events: list[event_pb2.Event], *, fresh: bool) -> None:
        """A change is on disk."""
        row = change.row
        if fresh:
            self._became_durable(execution, row)
        self.watchers.publish(row.key, events, ended=change.final)
        for message_id in change.consumed:
            taken = self._taken_waits.pop(message_id, None)
            if taken is not None and not taken.done():
                taken.set_result(None)
        if change.alerts:
            for event in events:
                if event.HasField("alert_raised"):
                    self.observer.alert(row, event)
        if not fresh and events and events[0].HasField("workflow_recovered"):
            self.observer.workflow_recovered(row, events[0])
        if execution.gone and not change.final:
            self._load_after_fault(execution)

    def _became_durable(self, execution: Held, row: Row) -> None:
        """A new workflow's start is on disk: whoever waits for that is told."""
        if not execution.gone:
            self._by_key[row.key] = self._by_id[row.workflow_id]
        self.observer.workflow_started(row)
        for index, (future, command) in enumerate(self._starts.pop(execution, [])):
            if index == 0:
                self._started(future, command, row, ends=not execution.gone)
            else:
                self._answer(future, command, row, execution.history.started)

    def _started(self, future: asyncio.Future[Begun], command: StartCommand, row: Row, *, ends: bool) -> None:
        """Answer who started it: now, or at its end."""
        if future.done():
            return
        if not (command.wait and ends) or self.draining:
            future.set_result(Begun(row, started=True))
            return
        timer = self._loop.call_later(command.wait, self._end_wait, row, None)
        self._begun[row.key] = row, future, timer

    def _end_wait(self, row: Row, final: event_pb2.Event | None) -> None:
        """The end that the starter waits for has come, or its time is over."""
        waiting = self._begun.pop(row.key, None)
        if waiting is not None:
            _, future, timer = waiting
            timer.cancel()
            if not future.done():
                future.set_result(Begun(row, started=True, final=final, waited=True))

    def finished(self, execution: Held, final: event_pb2.Event) -> None:
        """The workflow's end is on disk."""
        row = execution.row
        if self.suspects:
            self.suspect_ended(row.key, "")
        execution.drop()
        self._forget(execution)
        self._faults.forget(row.key)
        self.observer.workflow_ended(row, execution.history, final)
        self._end_wait(row, final)
        for future in self._end_waits.pop(row.key, ()):
            if not future.done():
                future.set_result(Ending(row, None, final))

    def taken(self, execution: Held) -> None:
        """A new workflow's id proved taken: answer with the one there is."""
        self._forget(execution)
        waiting = self._starts.pop(execution, [])
        self._answer_later(execution.row.workflow_id, waiting)

    def _answer_later(self, workflow_id: str, waiting: list[tuple[asyncio.Future[Begun], StartCommand]]) -> None:
        task = self._loop.create_task(self._answer_taken(workflow_id, waiting))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    async def _answer_taken(self, workflow_id: str, waiting: list[tuple[asyncio.Future[Begun], StartCommand]]) -> None:
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

    def lost(self, execution: Held, *, damaged: bool) -> None:
        """Another driver has the workflow; or the file is ``damaged`` where it lies."""
        row = execution.row
        log.warning("workflow_lost", workflow_id=row.workflow_id, generation=row.generation)
        self._forget(execution)
        if damaged:
            self._leave_alone(execution)
            return
        task = self._loop.create_task(self._take_up_again(row.workflow_id))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)

    def _leave_alone(self, execution: Held) -> None:
        """No other driver has it: the file is damaged where it lies. On disk it stays as it is."""
        if execution.row.key:
            self.retrying_store.unreadable.add(execution.row.key)
        for future, _ in self._starts.pop(execution, []):
            if not future.done():
                future.set_exception(errors.StoreNotCommitting(self.store.damage))
                future.exception()  # Whoever asked may be gone.

    async def _take_up_again(self, workflow_id: str) -> None:
        """If the other driver was this process after all, go on from what is on disk."""
        row = (await self.retrying_store.until_done(lambda: self.store.find([workflow_id]))).get(workflow_id)
        if row is not None and row.replica_id == self.replica_id:
            self.load([row.key])

    def failed(self, execution: Held) -> None:
        """A fault of our own dropped it: whoever waits for its start is told."""
        for future, _ in self._starts.pop(execution, []):
            if not future.done():
                future.set_exception(errors.InternalFault(execution.row.uid))

    # Ending.

    def begin_drain(self) -> None:
        """Start nothing more; answer those who wait for an end with what there is."""
        self.draining = True
        for row, _, _ in list(self._begun.values()):
            self._end_wait(row, None)
        for waits in list(self._end_waits.values()):
            for future in waits:
                if not future.done():
                    future.set_result(None)


def _input_of(started: event_pb2.Event) -> payload_pb2.Payload | None:
    detail = started.workflow_started
    return detail.input if detail.HasField("input") else None


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)
