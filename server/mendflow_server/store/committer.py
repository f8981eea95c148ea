"""Group commit: everything that changes the store goes through here.

While one batch is on its way to the disk the next one gathers; nothing waits
on a timer. A workflow has at most one change on its way: its execution sees to
that. When a batch could not be written it is sent again until it can be: it
was decided, and what it caused has not left the process yet. When its outcome
is unknown, the store's heads tell what became of each change before anything
is sent again:

    the new head is there      it was done
    the old head is there      it was not: it goes into the next batch
    anything else              another driver has the workflow
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

#: The most that one batch holds, so that no commit holds everyone up for long.
MOST_CHANGES = 512
#: How long to wait before a batch that failed is sent again, in seconds.
RETRY_PAUSE = 0.25
#: With more changes than this on their way there is no `Committer.wait_for_capacity`.
CROWD = 192
#: How long `Committer.wait_for_capacity` is waited for at most, in seconds.
ROOM_PATIENCE = 0.1


class Committer:
    """The one way to the store's `commit`."""

    def __init__(self, store: Store, clock: Clock, on_batch: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._changes: collections.deque[tuple[Change, ChangeDone]] = collections.deque()
        self._messages: collections.deque[tuple[Message, MessageDone]] = collections.deque()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        #: How many decided batches have still to be told of.
        self._telling = 0
        #: How many changes were sent that have still to be told of.
        self._on_their_way = 0
        #: Who waits for room.
        self._rooms: collections.deque[asyncio.Future[None]] = collections.deque()
        #: When the oldest batch that is not on disk was taken, by the monotonic clock; None: all is on disk.
        self.uncommitted_since: float | None = None
        #: When the newest batch reached the disk, by the monotonic clock.
        self.last_commit = clock.monotonic()
        #: Called when every change and message of a decided batch has been reported.
        self._on_batch = on_batch
        #: Why the last try failed; empty while commits work.
        self.failure = ""
        #: What has been logged of it since.
        self._said: set[str] = set()

    def submit(self, change: Change, done: ChangeDone) -> None:
        """Commit a change; ``done`` is called on the loop once it is decided."""
        self._changes.append((change, done))
        self._on_their_way += 1
        self._wake.set()

    def submit_message(self, message: Message, done: MessageDone) -> None:
        """Commit a message; ``done`` gets its outcome, the workflow's key and the message's id."""
        self._messages.append((message, done))
        self._wake.set()

    def probed(self) -> None:
        """Note that the store has just taken a write of another kind."""
        self.last_commit = self._clock.monotonic()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return self.uncommitted_since is None and not self._telling and not self._changes and not self._messages

    async def wait_for_capacity(self) -> None:
        """Wait, though not for long, until few changes are on their way.

        Whoever begins many things and is in no hurry asks first: a few workflows at a time are driven faster than
        all at once, for what they have in memory stays near the processor.
        """
        await asyncio.sleep(0)  # What was begun before is on its way then, and counts.
        if self._on_their_way <= CROWD:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._rooms.append(future)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(future, ROOM_PATIENCE)

    def _make_room(self) -> None:
        while self._rooms and self._on_their_way <= CROWD:
            future = self._rooms.popleft()
            if not future.done():
                future.set_result(None)
                return

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._wake.wait()
            await self.run_once()

    async def run_once(self) -> None:
        """Commit one batch, however often it must be tried."""
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
        # Not from this task: what follows runs workflow code and begins steps, which must not take it for theirs.
        self._telling += 1
        self._loop.call_soon(self._tell_all, changes, messages, result)

    def _tell_all(
        self, changes: list[tuple[Change, ChangeDone]], messages: list[tuple[Message, MessageDone]], result: BatchResult
    ) -> None:
        self._telling -= 1
        # A fault of a listener's must not stop the commits of all others.
        for (change, done), outcome in zip(changes, result.changes, strict=True):
            try:
                done(change, outcome)
            except Exception:
                log.exception("commit_listener_fault")
        for index, (message, told) in enumerate(messages):
            try:
                told(message, result.messages[index], result.message_keys[index], result.message_ids[index])
            except Exception:
                log.exception("commit_listener_fault")
        try:
            self._on_batch()
        except Exception:
            log.exception("commit_listener_fault")
        self._on_their_way -= len(changes)
        self._make_room()

    async def _commit(self, batch: Batch, *, unknown: bool = False) -> BatchResult:
        """Commit it, however often it must be tried; ``unknown``: it may be on disk already."""
        damaged = False
        while True:
            try:
                result = await (self._settle(batch) if unknown else self._store.commit(batch))
            except StoreDamaged as error:
                if damaged or len(batch.changes) + len(batch.messages) > 1:
                    return await self._one_by_one(batch, error, unknown=unknown)
                damaged = True  # Once more, on a new connection: it may have been the old one's memory.
            except StoreUnavailable as error:
                self._failed(error)
            except CommitUnknown as error:
                unknown = True
                self._failed(error)
            except StoreError as error:
                return await self._one_by_one(batch, error, unknown=unknown)
            else:
                self._answered()
                return result
            await asyncio.sleep(RETRY_PAUSE)

    async def _one_by_one(self, batch: Batch, error: StoreError, *, unknown: bool) -> BatchResult:
        """The others must not pay for one that breaks a rule of the store, by a fault of ours, or that lies where the
        file is damaged.
        """
        if len(batch.changes) + len(batch.messages) == 1:
            log.critical("change_refused_by_store", error=str(error))
            self._answered()
            refused = [CommitOutcome.DAMAGED if isinstance(error, StoreDamaged) else CommitOutcome.CONFLICT]
            return BatchResult(
                refused[: len(batch.changes)],
                refused[: len(batch.messages)],
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

    def _answered(self) -> None:
        """The store does what it is asked, or says why it never will."""
        if self.failure:
            self.failure = ""
            self._said.clear()
            log.info("store_commits_again")

    def _failed(self, error: StoreError) -> None:
        self.failure = str(error) or type(error).__name__
        if self.failure not in self._said:
            # Each cause once, for the second may say more: what began as an error of the disk is read-only now.
            self._said.add(self.failure)
            log.error("store_does_not_commit", error=self.failure)

    async def _settle(self, batch: Batch) -> BatchResult:
        """Find out what became of a batch of unknown outcome, and send again what was not done."""
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
        # A message carries a request id always, so that sending it twice leaves one.
        result = await self._store.commit(Batch([batch.changes[index] for index in again], batch.messages))
        outcomes.update(zip(again, result.changes, strict=True))
        result.changes = [outcomes[index] for index in range(len(batch.changes))]
        return result
