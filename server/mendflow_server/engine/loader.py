"""Loading workflows from the store, and delivering messages to them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from mendflow_server.healing.engine_faults import EngineFaults
from mendflow_server.history.state import FINAL_STATES, History, UnknownEvent
from mendflow_server.runtime.tasks import BackgroundTasks
from mendflow_server.store.records import Guard, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.engine.cache import ExecutionCache
    from mendflow_server.engine.sharing import Sharing
    from mendflow_server.execution.execution import Execution, ExecutionEvents
    from mendflow_server.execution.services import Services
    from mendflow_server.runtime.identity import Identity
    from mendflow_server.store.records import Loaded, Message
    from mendflow_server.store.replicas import Claimed
    from mendflow_server.store.retrying import RetryingStore

log = structlog.get_logger("mendflow.engine")

#: How many workflows one trip to the store loads.
LOAD_PAGE = 250


class Loader:
    """Loads workflows once the crash guard has judged the last crash (`open`)."""

    def __init__(
        self,
        *,
        services: Services,
        events: ExecutionEvents,
        cache: ExecutionCache,
        retrying: RetryingStore,
        definitions: Mapping[str, Workflow[Any, Any]],
        identity: Identity,
        sharing: Sharing | None,
        new_execution: type[Execution],
    ) -> None:
        self._new_execution = new_execution
        self._services = services
        self._events = events
        self._cache = cache
        self._retrying = retrying
        self._definitions = definitions
        self._identity = identity
        self._sharing = sharing
        self._is_open = False
        self._tasks = BackgroundTasks()
        #: Messages for workflows that are being loaded, by key.
        self._loading: dict[int, list[Message]] = {}
        #: Workflows that were held or released while they were being loaded, by key.
        self._held: dict[int, bool] = {}
        #: Keys still to load, and whether to resume a workflow whose code could not replay its history.
        self._waiting: dict[int, bool] = {}
        #: The earlier replicas of workflows that were claimed, by key.
        self._claimed: dict[int, str] = {}
        self._faults = EngineFaults()

    @property
    def loading(self) -> int:
        """How many workflows are being loaded, or wait for that."""
        return len(self._loading) + len(self._waiting)

    def open(self) -> None:
        """Load workflows from now on; those that wait follow with the next call of `load`."""
        self._is_open = True

    def close(self) -> None:
        """Stop loading."""
        self._tasks.cancel()

    # Loading.

    def load(self, keys: Iterable[int], *, retry: bool = False) -> None:
        """Load workflows that are not in memory.

        With ``retry`` a workflow that is paused because its code could not replay the history is resumed if the code
        can now.
        """
        for key in keys:
            if key not in self._cache and key not in self._loading:
                self._waiting[key] = retry or self._waiting.get(key, False)
        if self._waiting and self._is_open and not self._services.admission.draining:
            page = {key: self._waiting.pop(key) for key in list(self._waiting)[:LOAD_PAGE]}
            self._loading.update((key, []) for key in page)
            self._tasks.start(self._load(page))

    def load_claimed(self, claimed: Mapping[int, Claimed], *, retry: bool = False) -> None:
        """Load workflows that this replica has claimed."""
        self._claimed.update((key, each.replica_id) for key, each in claimed.items())
        self.load(claimed, retry=retry)

    async def _load(self, page: dict[int, bool]) -> None:
        try:
            found = await self._retrying.load(list(page))
        finally:
            missed = {key: self._loading.pop(key, []) for key in page}
            held = {key: self._held.pop(key) for key in page if key in self._held}
        elsewhere: list[int] = []
        for loaded in found:
            row = loaded.row
            row.held = held.get(row.key, row.held)
            previous = self._claimed.pop(row.key, None)
            if self._sharing is not None and row.replica_id != self._identity.replica_id:
                if row.state not in FINAL_STATES:
                    elsewhere.append(row.key)
                del missed[row.key]  # They are in its inbox, which its driver reads.
                continue
            self.bring_in(loaded, retry=page[row.key], previous_replica_id=previous)
        for key, messages in missed.items():
            for message in messages:
                self.deliver(key, message)
        if self._sharing is not None and elsewhere:
            claimed = await self._sharing.claim(elsewhere)
            for retry in (False, True):
                self.load_claimed({key: each for key, each in claimed.items() if page[key] is retry}, retry=retry)
        self.load([])

    def bring_in(
        self,
        loaded: Loaded,
        *,
        history: History | None = None,
        retry: bool = False,
        previous_replica_id: str | None = None,
    ) -> None:
        """Continue a loaded workflow in memory. ``history`` is its decoded history, where the caller has it.

        A claimed workflow had another replica before: ``previous_replica_id``.
        """
        row = loaded.row
        try:
            self._bring_in(loaded, history, retry=retry, previous_replica_id=previous_replica_id)
        except Exception as error:  # an internal error in one workflow must not keep the others out
            log.exception("engine_fault", workflow_id=row.workflow_id, error_id=row.uid)
            self._faults.add(row.key, error)
            self._load_later(row.key)

    def _bring_in(
        self, loaded: Loaded, history: History | None, *, retry: bool, previous_replica_id: str | None
    ) -> None:
        row = loaded.row
        if row.state in FINAL_STATES:
            return
        if row.key in self._cache:
            # Recovery loaded it meanwhile, and may have read its inbox before these messages came.
            for message in loaded.inbox:
                self.deliver(row.key, message)
            return
        faulted = self._faults.judge(loaded)
        if faulted.hopeless:
            self._retrying.unreadable.add(row.key)
            log.critical("workflow_left_alone", workflow_id=row.workflow_id, error_id=row.uid, error=faulted.error)
            return
        execution = self._execution_of(loaded, history)
        self._cache.add(execution)
        for attempt in self._services.attempts.hung_of(row.uid):
            execution.take_over_attempt(attempt)
        self._services.dispatcher.enqueue(
            execution,
            lambda: execution.resume_from(
                loaded, retry=retry, faulted=faulted, previous_replica_id=previous_replica_id
            ),
        )

    def _execution_of(self, loaded: Loaded, history: History | None) -> Execution:
        row = loaded.row
        workflow = self._definitions.get(row.workflow_type)
        if history is None:
            try:
                history = History.of(loaded.events)
            except Exception as error:
                if not isinstance(error, UnknownEvent):
                    log.exception("history_not_understood", workflow_id=row.workflow_id)
                history = History()
                history.last_sequence = row.last_sequence
                workflow = None
        mine = Row(**{name: getattr(row, name) for name in Row.__slots__})
        if row.replica_id != self._identity.replica_id:
            mine.generation += 1
            mine.replica_id = self._identity.replica_id
        guard = Guard(row.generation, row.last_sequence)
        return self._new_execution(self._services, self._events, mine, history, guard=guard, workflow=workflow)

    def note_held(self, key: int, *, held: bool) -> None:
        """Note that an operator has held or released a workflow, in memory or on its way into it."""
        execution = self._cache.get(key)
        if execution is not None:
            execution.row.held = held
        elif key in self._loading:
            self._held[key] = held

    # Messages.

    def deliver(self, key: int, message: Message) -> None:
        """Deliver a committed message to its workflow, and load that if need be."""
        execution = self._cache.get(key)
        if execution is not None:
            self._services.dispatcher.enqueue(execution, lambda: execution.deliver(message))
        elif key in self._loading:
            self._loading[key].append(message)
        else:
            self.load([key])

    def deliver_inboxes(self, keys: Iterable[int]) -> None:
        """Deliver what these inboxes hold: a workflow may not know of a message whose commit had an unknown outcome."""
        absent = []
        for key in keys:
            if key in self._cache:
                self._services.inbox.read(key, partial(self._deliver_all, key))
            else:
                absent.append(key)
        if absent:
            self.load(absent)

    def _deliver_all(self, key: int, messages: Sequence[Message]) -> None:
        for message in messages:
            self.deliver(key, message)

    # Internal errors.

    def evict_after_fault(self, execution: Execution, error: BaseException) -> None:
        """Evict a workflow because of an internal error, and load it again later. The second error pauses it."""
        key = execution.row.key
        if key and not execution.closed:
            self._faults.add(key, error)
        self._cache.evict(execution)
        if not execution.in_flight:
            self.load_after_fault(execution)

    def load_after_fault(self, execution: Execution) -> None:
        """Load an evicted workflow again, later after each internal error."""
        key = execution.row.key
        if key:
            self._load_later(key)

    def _load_later(self, key: int) -> None:
        self._services.monotonic_timers.after(self._faults.pause(key), lambda: self.load([key]))

    def forget_faults(self, key: int) -> None:
        """Forget the internal errors of a workflow that has ended."""
        self._faults.forget(key)
