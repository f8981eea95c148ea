"""Group commit. All changes of workflows and all messages reach the store through here.

While the store commits one batch, the committer collects the next one; it
never waits for a timer. A workflow has at most one change in flight, which its
execution ensures. The committer repeats a batch that failed until it succeeds,
because the changes are decided and their effects have not left the process.
When the outcome of a batch is unknown, the committer compares each change with
the head of its workflow in the store before it commits anything again:

    the head is the new one      the change was committed
    the head is the old one      it was not, and is committed again
    any other head               another driver has the workflow
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING

import structlog

from mendflow_server.store.errors import CommitUnknown, StoreDamaged, StoreError, StoreUnavailable
from mendflow_server.store.records import Batch, BatchResult, CommitOutcome, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Change, Message

    ChangeDone = Callable[[Change, CommitOutcome], None]
    MessageDone = Callable[[Message, CommitOutcome, int, int], None]

log = structlog.get_logger("mendflow.commit")

#: The most changes, and the most messages, in a batch. A larger one would delay all other commits.
MOST_CHANGES = 512
#: The pause before a failed batch is retried, in seconds.
RETRY_PAUSE = 0.25
#: `Committer.wait_for_capacity` waits while more changes than this are in flight.
CAPACITY = 192
#: The longest that `Committer.wait_for_capacity` waits, in seconds.
CAPACITY_TIMEOUT = 0.1


class Committer:
    """The only caller of `Store.commit`."""

    def __init__(self, store: Store, clock: Clock, on_batch: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._changes: collections.deque[tuple[Change, ChangeDone]] = collections.deque()
        self._messages: collections.deque[tuple[Message, MessageDone]] = collections.deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        #: The number of committed batches whose callbacks have not run.
        self._notifying = 0
        #: The number of submitted changes whose callbacks have not run.
        self._in_flight = 0
        #: The callers of `wait_for_capacity`.
        self._waiters: collections.deque[asyncio.Future[None]] = collections.deque()
        #: When the committer began to commit the current batch, by the monotonic clock; None while there is none.
        self.uncommitted_since: float | None = None
        #: When the last batch was committed, by the monotonic clock.
        self.last_commit = clock.monotonic()
        #: Called after all callbacks of a batch.
        self._on_batch = on_batch
        #: Why the last commit failed; empty after a success.
        self.failure = ""
        #: The reasons that were logged since the last success.
        self._logged: set[str] = set()

    def submit(self, change: Change, done: ChangeDone) -> None:
        """Commit a change, then call ``done`` with it and its outcome on the loop."""
        self._changes.append((change, done))
        self._in_flight += 1
        self._wake.set()

    def submit_message(self, message: Message, done: MessageDone) -> None:
        """Commit a message, then call ``done`` with it, its outcome, the workflow's key and the message's id."""
        self._messages.append((message, done))
        self._wake.set()

    def probed(self) -> None:
        """Note that the store has just taken a write of another kind."""
        self.last_commit = self._clock.monotonic()

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self.uncommitted_since is None and not self._notifying and not self._changes and not self._messages

    async def wait_for_capacity(self) -> None:
        """Apply backpressure: wait until few changes are in flight, but at most `CAPACITY_TIMEOUT`.

        A caller that starts many workflows at low priority calls this before each. The server drives a few workflows
        at a time faster than all at once, because their memory stays in the processor's cache.
        """
        await asyncio.sleep(0)  # What the caller started before is submitted by now, and counts.
        if self._in_flight <= CAPACITY:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(future)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(future, CAPACITY_TIMEOUT)

    def _release_waiter(self) -> None:
        while self._waiters and self._in_flight <= CAPACITY:
            future = self._waiters.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._wake.wait()
            await self.run_once()

    async def run_once(self) -> None:
        """Commit one batch, and retry it until it succeeds."""
        changes = [self._changes.popleft() for _ in range(min(len(self._changes), MOST_CHANGES))]
        messages = [self._messages.popleft() for _ in range(min(len(self._messages), MOST_CHANGES))]
        if not self._changes and not self._messages:
            self._wake.clear()
        if not changes and not messages:
            return
        self.uncommitted_since = self._clock.monotonic()
        batch = Batch([change for change, _ in changes], [message for message, _ in messages])
        result = await self._commit(batch)
        self.uncommitted_since = None
        self.last_commit = self._clock.monotonic()
        # The callbacks run workflow code and start steps, which must not run inside this task.
        self._notifying += 1
        self._loop.call_soon(self._notify, changes, messages, result)

    def _notify(
        self, changes: list[tuple[Change, ChangeDone]], messages: list[tuple[Message, MessageDone]], result: BatchResult
    ) -> None:
        self._notifying -= 1
        # An error in one callback must not stop the commits of all other workflows.
        for (change, done), outcome in zip(changes, result.changes, strict=True):
            try:
                done(change, outcome)
            except Exception:
                log.exception("commit_callback_failed")
        for index, (message, message_done) in enumerate(messages):
            try:
                message_done(message, result.messages[index], result.message_keys[index], result.message_ids[index])
            except Exception:
                log.exception("commit_callback_failed")
        try:
            self._on_batch()
        except Exception:
            log.exception("commit_callback_failed")
        self._in_flight -= len(changes)
        self._release_waiter()

    async def _commit(self, batch: Batch, *, unknown: bool = False) -> BatchResult:
        """Commit a batch, and retry it until it succeeds; ``unknown`` says that it may be committed already."""
        damaged = False
        while True:
            try:
                result = await (self._settle(batch) if unknown else self._store.commit(batch))
            except StoreDamaged as error:
                if damaged or len(batch.changes) + len(batch.messages) > 1:
                    return await self._one_by_one(batch, error, unknown=unknown)
                damaged = True  # Retry once on a new connection: only the old one's memory may be damaged.
            except StoreUnavailable as error:
                self._failed(error)
            except CommitUnknown as error:
                unknown = True
                self._failed(error)
            except StoreError as error:
                return await self._one_by_one(batch, error, unknown=unknown)
            else:
                self._recovered()
                return result
            await asyncio.sleep(RETRY_PAUSE)

    async def _one_by_one(self, batch: Batch, error: StoreError, *, unknown: bool) -> BatchResult:
        """Commit the parts of a batch one at a time.

        One part violates a rule of the store, which is an internal error, or its part of the file is damaged. The
        others must not fail with it.
        """
        if len(batch.changes) + len(batch.messages) == 1:
            log.critical("change_rejected_by_store", error=str(error))
            self._recovered()
            rejected = [CommitOutcome.DAMAGED if isinstance(error, StoreDamaged) else CommitOutcome.CONFLICT]
            return BatchResult(
                rejected[: len(batch.changes)],
                rejected[: len(batch.messages)],
                [0] * len(batch.messages),
                [0] * len(batch.messages),
            )
        result = BatchResult([], [], [], [])
        parts = [Batch([change], []) for change in batch.changes] + [Batch([], [message]) for message in batch.messages]
        for part in parts:
            each = await self._commit(part, unknown=unknown)
            result.changes += each.changes
            result.messages += each.messages
            result.message_keys += each.message_keys
            result.message_ids += each.message_ids
        return result

    def _recovered(self) -> None:
        """Record that the store committed the batch, or rejected it for good."""
        if self.failure:
            self.failure = ""
            self._logged.clear()
            log.info("commit_recovered")

    def _failed(self, error: StoreError) -> None:
        self.failure = str(error) or type(error).__name__
        if self.failure not in self._logged:
            # Log each reason once. A later one may say more: a file system may become read-only after an I/O error.
            self._logged.add(self.failure)
            log.error("commit_failed", error=self.failure)

    async def _settle(self, batch: Batch) -> BatchResult:
        """Determine the outcome of a batch, and commit again what was not committed."""
        outcomes: dict[int, CommitOutcome] = {}
        fresh = [change.row.workflow_id for change in batch.changes if change.guard is None]
        rows = await self._store.find(fresh) if fresh else {}
        heads = await self._store.heads([change.row.key for change in batch.changes if change.guard is not None])
        again: list[int] = []
        for index, change in enumerate(batch.changes):
            if change.guard is None:
                row = rows.get(change.row.workflow_id)
                if row is None:
                    again.append(index)
                elif row.uid == change.row.uid:
                    change.row.key = row.key
                    outcomes[index] = CommitOutcome.COMMITTED
                else:
                    outcomes[index] = CommitOutcome.ID_EXISTS
                continue
            head = heads.get(change.row.key)
            if head == change.guard:
                again.append(index)
            elif head == Guard(change.row.generation, change.row.last_sequence):
                outcomes[index] = CommitOutcome.COMMITTED
            else:
                outcomes[index] = CommitOutcome.CONFLICT
        # Every message has a request id, so a message that is committed twice is stored once.
        result = await self._store.commit(Batch([batch.changes[index] for index in again], batch.messages))
        outcomes.update(zip(again, result.changes, strict=True))
        result.changes = [outcomes[index] for index in range(len(batch.changes))]
        return result
