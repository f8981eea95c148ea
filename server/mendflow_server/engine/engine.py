"""The engine: the verbs on workflows, and what their executions report.

The engine is made of these parts: `Waiters` (the callers), `ExecutionCache`
(the workflows in memory), `Loader` (how they get there) and `CommandSender`
(the messages to them). Where several replicas share the store, `Sharing` says
which workflows are this one's, and `News` what the others have committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server import errors
from mendflow_server.engine.availability import ensure_available
from mendflow_server.engine.cache import ExecutionCache
from mendflow_server.engine.commands import CommandSender
from mendflow_server.engine.loader import Loader
from mendflow_server.engine.news import News
from mendflow_server.engine.reader import WorkflowReader
from mendflow_server.engine.requests import Snapshot, StartResult
from mendflow_server.engine.retention import RetentionCommands
from mendflow_server.engine.sharing import Sharing
from mendflow_server.engine.waiters import Waiters
from mendflow_server.engine.watch_hub import WatchHub
from mendflow_server.execution.execution import Execution
from mendflow_server.history.state import FINAL_STATES, History
from mendflow_server.history.timestamps import micros_of
from mendflow_server.runtime.tasks import BackgroundTasks
from mendflow_server.store.records import CommitOutcome, Row

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mendflow.authoring.workflow import Workflow
    from mendflow.v1 import payload_pb2, workflow_service_pb2
    from mendflow_server.engine.waiters import StartWaiter
    from mendflow_server.execution.services import Services
    from mendflow_server.execution.start_command import StartCommand
    from mendflow_server.healing.crash_budget import Unit
    from mendflow_server.runtime.identity import Identity
    from mendflow_server.runtime.random_bytes import RandomBytes
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Change, Cursor, Filter, Page
    from mendflow_server.store.retrying import RetryingStore

log = structlog.get_logger("mendflow.engine")

#: Why a start must be retried that found an ended workflow, which was then deleted.
_DELETED = "the earlier workflow with this id was deleted meanwhile"


class Engine:
    """The workflows of this process, and the verbs on them."""

    def __init__(
        self,
        *,
        services: Services,
        store: Store,
        retrying: RetryingStore,
        random_bytes: RandomBytes,
        definitions: Mapping[str, Workflow[Any, Any]],
        identity: Identity,
        watch_hub: type[WatchHub] = WatchHub,
        new_execution: type[Execution] = Execution,
    ) -> None:
        self._new_execution = new_execution
        self._services = services
        self._store = store
        self._retrying = retrying
        self.definitions = definitions
        self._identity = identity
        self.start_time = services.clock.time()
        self._random_bytes = random_bytes
        self._tasks = BackgroundTasks()
        settings = self.settings = services.settings
        self.waiters = Waiters(services.clock, settings.commit_patience)
        self.cache = ExecutionCache(
            clock=services.clock, dispatcher=services.dispatcher, evict_after=settings.evict_after
        )
        self._reader = WorkflowReader(store, self.cache)
        self.watchers = watch_hub(store, settings, self._reader.find)
        #: Which workflows are this replica's; None where there can be no others.
        self.sharing: Sharing | None = None
        if store.replicas is not None:
            self.sharing = Sharing(store=store.replicas, retrying=retrying, identity=identity)
        self.loader = Loader(
            services=services,
            events=self,
            cache=self.cache,
            retrying=retrying,
            definitions=definitions,
            identity=identity,
            sharing=self.sharing,
            new_execution=new_execution,
        )
        self._commands = CommandSender(
            services=services,
            store=store,
            reader=self._reader,
            loader=self.loader,
            waiters=self.waiters,
            random_bytes=random_bytes,
        )
        #: What the others commit; None where there can be no others.
        self.news: News | None = None
        if self.sharing is not None:
            self.news = News(
                sharing=self.sharing,
                cache=self.cache,
                reader=self._reader,
                loader=self.loader,
                waiters=self.waiters,
                watchers=self.watchers,
            )
        self._retention = RetentionCommands(services=services, store=store, loader=self.loader)

    @property
    def replica_id(self) -> str:
        """The id of this replica."""
        return self._identity.replica_id

    # Starting.

    def start(self, command: StartCommand) -> asyncio.Future[StartResult]:
        """Start a workflow. The future is resolved once the start is committed; cancelling it stops nothing.

        For the caller that started it and waits, it is resolved at the end, which saves a turn of the loop.

        Raises `Draining`, `StoreNotCommitting` and `TooManyWorkflowsInMemory`. The future raises `AlreadyStarted` and
        `StoreNotCommitting`.
        """
        ensure_available(self._services)
        existing = self.cache.find(command.workflow_id)
        if existing is not None:
            return self._start_existing(existing, command)
        limit = self._services.settings.workflows_in_memory_limit
        if len(self.cache) >= limit and not self.cache.evict_idle(at_once=True):
            raise errors.TooManyWorkflowsInMemory(limit)
        execution = self._new_execution(
            self._services, self, self._new_row(command), History(), guard=None, workflow=command.definition
        )
        self.cache.add(execution)
        future = self.waiters.add_start(execution, command)
        self._services.dispatcher.enqueue(execution, lambda: execution.begin(command))
        return future

    async def start_and_wait(self, command: StartCommand) -> StartResult:
        """Start a workflow and wait for its end, as long as the command says. Raises as `start` does."""
        result = await self.start(command)
        if result.final is not None or not (command.wait or result.row.state in FINAL_STATES):
            return result
        if result.started:
            # Its wait is over, or the server shuts down.
            snapshot = await self._reader.snapshot(result.row.workflow_id)
        else:
            try:
                snapshot = await self.wait_end(result.row, command.wait)
            except errors.WorkflowNotFound:
                raise errors.StoreNotCommitting(_DELETED) from None
        return StartResult(snapshot.row, result.started, snapshot.final)

    async def wait_for_capacity(self) -> None:
        """Apply backpressure: wait until few commits are in flight."""
        await self._services.committer.wait_for_capacity()

    def _start_existing(self, existing: Execution, command: StartCommand) -> asyncio.Future[StartResult]:
        if self.waiters.is_starting(existing):
            return self.waiters.add_start(existing, command)
        waiter = self.waiters.new_start(command)
        if existing.history.started is None:
            self._report_existing_later(command.workflow_id, [waiter])
        else:
            waiter.exists(existing.row, existing.history.started)
        return waiter.future

    def _new_row(self, command: StartCommand) -> Row:
        return Row(
            key=0,
            workflow_id=command.workflow_id,
            uid=self._random_bytes(16).hex(),
            workflow_type=command.definition.name,
            state=workflow_pb2.WORKFLOW_STATE_PENDING,
            reason=0,
            explanation="",
            generation=1,
            replica_id=self.replica_id,
            last_sequence=0,
            wake_time=None,
            create_time=micros_of(self._services.clock.time()),
            end_time=None,
            untaken_signals=0,
            trace_id=command.trace.trace_id,
            labels=command.labels,
        )

    # Reading.

    async def find(self, workflow_id: str) -> Row:
        """Return a workflow's committed row. Raises `WorkflowNotFound`."""
        return await self._reader.find(workflow_id)

    async def get(self, workflow_id: str, *, wait: float, uid: str = "") -> Snapshot:
        """Return a workflow with its first and final event; wait up to ``wait`` seconds for its end.

        An empty ``uid`` matches any workflow. Raises `WorkflowNotFound`, also when the workflow is deleted meanwhile.
        """
        snapshot = await self._reader.snapshot(workflow_id)
        if uid and snapshot.row.uid != uid:
            raise errors.WorkflowNotFound(workflow_id)
        if wait <= 0 or snapshot.final is not None:
            return snapshot
        ended = await self.wait_end(snapshot.row, wait)
        if ended.row.uid != snapshot.row.uid:
            raise errors.WorkflowNotFound(workflow_id)  # It was deleted, and another one has its id.
        return Snapshot(ended.row, snapshot.started, ended.final)

    async def wait_end(self, row: Row, wait: float) -> Snapshot:
        """Return a workflow at its end, or as it is after ``wait`` seconds or when the server shuts down."""
        if row.state not in FINAL_STATES and wait > 0 and not self._services.admission.draining:
            with self.waiters.end_of(row.key, wait) as end:
                if row.key not in self.cache:
                    row = await self.find(row.workflow_id)
                if row.state not in FINAL_STATES:
                    snapshot = await end
                    if snapshot is not None:
                        return snapshot
                    return await self._reader.snapshot(row.workflow_id)
        return Snapshot(row, None, await self._reader.final_event(row))

    async def list_workflows(self, condition: Filter, *, limit: int, after: Cursor | None) -> Page:
        """Return a page of rows, newest first."""
        return await self._reader.page(condition, limit=limit, after=after)

    async def read_events(self, key: int, after_sequence: int, *, limit: int, max_bytes: int) -> list[bytes]:
        """Return stored events after a sequence, oldest first: at most ``limit`` and ``max_bytes``, at least one."""
        return await self._reader.events(key, after_sequence, limit=limit, max_bytes=max_bytes)

    def watch(
        self, workflow_id: str, *, after_sequence: int, kinds: frozenset[int], uid: str = ""
    ) -> AsyncIterator[workflow_service_pb2.WatchWorkflowResponse]:
        """Yield frames of a workflow's events until its end. An empty ``uid`` matches any workflow."""
        return self.watchers.watch(workflow_id, after_sequence=after_sequence, kinds=kinds, uid=uid)

    # Commands.

    async def signal(
        self, workflow_id: str, *, name: str, data: payload_pb2.Payload | None, request_id: str, actor: str
    ) -> bool:
        """Send a signal; return whether its request id was used before."""
        return await self._commands.signal(workflow_id, name=name, data=data, request_id=request_id, actor=actor)

    async def cancel(self, workflow_id: str, *, reason: str, request_id: str, actor: str) -> Row:
        """Cancel a workflow; return its row afterwards."""
        return await self._commands.cancel(workflow_id, reason=reason, request_id=request_id, actor=actor)

    async def resume(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """Resume a stopped workflow; return its row afterwards."""
        return await self._commands.resume(workflow_id, reason=reason, actor=actor)

    async def terminate(self, workflow_id: str, *, reason: str, actor: str) -> Row:
        """End a workflow in any open state; return its row afterwards."""
        return await self._commands.terminate(workflow_id, reason=reason, actor=actor)

    async def set_held(self, workflow_id: str, *, held: bool, actor: str) -> Row:
        """Hold a workflow, or release it; return its row afterwards."""
        return await self._retention.set_held(workflow_id, held=held, actor=actor)

    async def delete(self, workflow_id: str, *, uid: str, actor: str) -> None:
        """Delete a workflow that has ended."""
        await self._retention.delete(workflow_id, uid=uid, actor=actor)

    # What executions report (`ExecutionEvents`).

    def committed(
        self, execution: Execution, change: Change, events: Sequence[event_pb2.Event], *, fresh: bool
    ) -> None:
        """Publish a committed change to callers, watchers and the observer."""
        row = change.row
        observer = self._services.observer
        if fresh:
            self._start_committed(execution, row)
        self.watchers.publish(row.key, events, ended=change.final)
        if self.sharing is not None:
            self.sharing.notices.changed(row.key)
        if change.consumed:
            self.waiters.messages_taken(change.consumed)
        if change.alerts:
            for event in events:
                if event.HasField("alert_raised"):
                    observer.alert(row, event)
        if not fresh and events and events[0].HasField("workflow_recovered"):
            observer.workflow_recovered(row, events[0])
        if execution.closed and not change.final:
            self.loader.load_after_fault(execution)

    def _start_committed(self, execution: Execution, row: Row) -> None:
        """Resolve the callers waiting on a start that is committed."""
        if not execution.closed and row.key not in self.cache:  # A commit of unknown outcome may have been loaded.
            self.cache.add(execution)
        self._services.observer.workflow_started(row)
        waits = not (execution.closed or self._services.admission.draining)
        for index, waiter in enumerate(self.waiters.take_starts(execution)):
            if index:
                waiter.exists(row, execution.history.started)
            elif waiter.command.wait and waits:
                self.waiters.wait_for_end_of(waiter, row)
            else:
                waiter.started(row)

    def closed(self, execution: Execution, final: event_pb2.Event) -> None:
        """Evict a workflow whose end is committed, and report that to callers and the observer."""
        row = execution.row
        guard = self._services.admission.guard
        if guard.has_suspects:
            guard.ended(row.key, "")
        self.cache.evict(execution)
        self.loader.forget_faults(row.key)
        self._services.observer.workflow_ended(row, execution.history, final)
        self.waiters.ended(row, final)

    def conflicted(self, execution: Execution, outcome: CommitOutcome) -> None:
        """Forget a workflow whose change the store refused.

        Its id may be taken, another driver may have it, or the file may be damaged where it is stored.
        """
        row = execution.row
        self.cache.remove(execution)
        if outcome is CommitOutcome.ID_EXISTS:
            self._report_existing_later(row.workflow_id, self.waiters.take_starts(execution))
            return
        log.warning("workflow_lost", workflow_id=row.workflow_id, generation=row.generation)
        if outcome is not CommitOutcome.DAMAGED:
            self._tasks.start(self._load_if_mine(row.workflow_id))
            return
        # No other driver has it. It stays in the store as it is.
        if row.key:
            self._retrying.unreadable.add(row.key)
        for waiter in self.waiters.take_starts(execution):
            waiter.refused(errors.StoreNotCommitting(self._store.damage))

    def left_to_other_build(self, execution: Execution) -> bool:
        """Leave a workflow to a replica with other code, if there may be one; return whether there may."""
        if self.sharing is None or not execution.stored or not self.sharing.may_fit_elsewhere(execution.row.key):
            return False
        key = execution.row.key
        self.cache.evict(execution)
        self._tasks.start(self._leave(key))
        return True

    async def _leave(self, key: int) -> None:
        if self.sharing is not None and not await self.sharing.leave_to_other_build(key):
            self.loader.load([key])

    def replay_failed(self, execution: Execution) -> None:
        """Load a workflow again that is paused because of its code, and resume it if the code fits now."""
        self.cache.evict(execution)
        self.loader.load([execution.row.key], retry=True)

    def faulted(self, execution: Execution, error: BaseException) -> None:
        """Evict a workflow in which the server met an internal error, and load it again later."""
        row = execution.row
        log.error("engine_fault", workflow_id=row.workflow_id, error_id=row.uid, exc_info=error)
        self.loader.evict_after_fault(execution, error)
        for waiter in self.waiters.take_starts(execution):
            waiter.refused(errors.InternalFault(row.uid))

    def _report_existing_later(self, workflow_id: str, waiting: list[StartWaiter]) -> None:
        self._tasks.start(self._report_existing(workflow_id, waiting))

    async def _report_existing(self, workflow_id: str, waiting: list[StartWaiter]) -> None:
        try:
            snapshot = await self._reader.snapshot(workflow_id)
        except errors.WorkflowNotFound:
            for waiter in waiting:
                waiter.refused(errors.StoreNotCommitting(_DELETED))
            return
        except Exception as error:  # noqa: BLE001 - the callers get it
            for waiter in waiting:
                waiter.refused(error)
            return
        for waiter in waiting:
            waiter.exists(snapshot.row, snapshot.started)

    async def _load_if_mine(self, workflow_id: str) -> None:
        """Load a workflow from the store if the other driver was this process after all."""
        row = (await self._retrying.until_done(lambda: self._store.find([workflow_id]))).get(workflow_id)
        if row is not None and row.replica_id == self.replica_id:
            self.loader.load([row.key])

    # What the supervisor asks.

    def release(self, unit: Unit) -> None:
        """Continue a suspect whose turn has come."""
        execution = self.cache.get(unit.key)
        if execution is None:
            self.loader.load([unit.key])
        elif unit.step_key:
            self._services.dispatcher.enqueue(execution, lambda: execution.want(unit.step_key))
        else:
            self._services.dispatcher.enqueue(execution, execution.resume)

    def tick(self, now: float) -> None:
        """Run the timers that are due, and refuse callers that have waited too long for a commit.

        ``now`` is in monotonic seconds.
        """
        self._services.wall_timers.run_due()
        self._services.monotonic_timers.run_due()
        self.waiters.expire(now, self._services.committer.failure)

    def has(self, key: int) -> bool:
        """Return whether a workflow is in memory."""
        return key in self.cache

    def evict(self, *, at_once: bool = False) -> int:
        """Evict workflows that rest; return how many."""
        return self.cache.evict_idle(at_once=at_once)

    @property
    def workflows_in_memory(self) -> int:
        """How many workflows are in memory."""
        return len(self.cache)

    @property
    def workflows_loading(self) -> int:
        """How many workflows are being loaded, or wait for that."""
        return self.loader.loading

    # Shutting down.

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down."""
        return self._services.admission.draining

    @property
    def attempts_running(self) -> int:
        """How many attempts are open and their code runs."""
        attempts = self._services.attempts
        return len(attempts.running) - attempts.hung

    @property
    def settled(self) -> bool:
        """Whether everything that happened is committed."""
        return self._services.dispatcher.idle and self._services.committer.idle

    @property
    def resting(self) -> bool:
        """Whether no code of a step runs and nothing follows until time passes or a caller acts."""
        at_rest = self.settled and not self.attempts_running and not self.workflows_loading
        return at_rest and self._tasks.idle and self._services.inbox.idle

    @property
    def next_times(self) -> tuple[float | None, float | None]:
        """When the next timer in memory is due: by the wall clock, and by the monotonic clock."""
        return self._services.wall_timers.next_time, self._services.monotonic_timers.next_time

    def drain(self) -> None:
        """Start nothing more, and release the callers that wait for an end."""
        self._services.admission.close()
        self.waiters.drain()

    def hand_over(self) -> None:
        """Interrupt what the drain has no more time for: async attempts are closed as lost, threads stay."""
        for execution in self.cache:
            if execution.stored:
                self._services.dispatcher.enqueue(execution, execution.hand_over)

    def close(self) -> None:
        """Evict every workflow and stop all background work."""
        self.cache.evict_all()
        self._services.attempts.close()
        self._services.wall_timers.close()
        self._services.monotonic_timers.close()
        self._services.inbox.close()
        self.loader.close()
        self._tasks.cancel()
