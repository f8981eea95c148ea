"""Callers that wait: for a start, for an end, or for a message to be in a history.

A future is resolved only once what it reports is committed. A caller that
disconnects stops waiting; what it began continues.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from mendflow.codec import same_payload
from mendflow_server import errors
from mendflow_server.engine.requests import Snapshot, StartResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow.v1 import event_pb2, payload_pb2
    from mendflow_server.execution.execution import Execution
    from mendflow_server.execution.start_command import StartCommand
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.store.records import Row


class StartWaiter(NamedTuple):
    """A caller of a start."""

    future: asyncio.Future[StartResult]
    command: StartCommand

    def started(self, row: Row) -> None:
        """Report that this call started the workflow."""
        if not self.future.done():
            self.future.set_result(StartResult(row, started=True))

    def exists(self, row: Row, started: event_pb2.Event | None) -> None:
        """Report a workflow that exists already: the same, or another one under the same id."""
        if self.future.done():
            return
        if row.workflow_type != self.command.definition.name:
            self.future.set_exception(errors.AlreadyStarted(row.workflow_id, "type"))
        elif started is None or not same_payload(_input_of(started), self.command.input):
            self.future.set_exception(errors.AlreadyStarted(row.workflow_id, "input"))
        else:
            self.future.set_result(StartResult(row, started=False))

    def refused(self, error: Exception) -> None:
        """Report why the start cannot be committed."""
        _refuse(self.future, error)


class _EndOfStart(NamedTuple):
    row: Row
    future: asyncio.Future[StartResult]
    timer: asyncio.TimerHandle


class Waiters:
    """The callers of this process. ``patience`` is how long a caller waits for a commit, in seconds."""

    def __init__(self, clock: Clock, patience: float) -> None:
        self._clock = clock
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._starts: dict[Execution, list[StartWaiter]] = {}
        #: Callers that started a workflow and wait for its end, by its key.
        self._started: dict[int, _EndOfStart] = {}
        self._ends: dict[int, set[asyncio.Future[Snapshot | None]]] = {}
        self._messages: dict[int, asyncio.Future[None]] = {}
        #: Callers that wait for a commit, and until when, in monotonic seconds.
        self._commits: collections.deque[tuple[float, asyncio.Future[Any]]] = collections.deque()

    # Commits.

    def until_committed(self, future: asyncio.Future[Any]) -> None:
        """Refuse a future that is not resolved within the patience (`expire`)."""
        self._commits.append((self._clock.monotonic() + self._patience, future))

    def expire(self, now: float, why: str) -> None:
        """Refuse the callers that have waited too long for a commit; ``why`` says what the store lacks."""
        commits = self._commits
        while commits and (commits[0][0] <= now or commits[0][1].done()):
            _refuse(commits.popleft()[1], errors.StoreNotCommitting(why or "the store is slow"))

    # Starts.

    def new_start(self, command: StartCommand) -> StartWaiter:
        """Return a caller of a start; the engine reports to it."""
        return StartWaiter(self._loop.create_future(), command)

    def add_start(self, execution: Execution, command: StartCommand) -> asyncio.Future[StartResult]:
        """Wait until a new workflow is committed."""
        waiter = self.new_start(command)
        self._starts.setdefault(execution, []).append(waiter)
        self.until_committed(waiter.future)
        return waiter.future

    def is_starting(self, execution: Execution) -> bool:
        """Return whether a workflow is not committed yet."""
        return execution in self._starts

    def take_starts(self, execution: Execution) -> list[StartWaiter]:
        """Return the callers that wait for a new workflow, the one that began it first. They no longer wait."""
        return self._starts.pop(execution, [])

    def wait_for_end_of(self, waiter: StartWaiter, row: Row) -> None:
        """Report a committed start at the workflow's end, or when the command's wait is over."""
        if not waiter.future.done():
            timer = self._loop.call_later(waiter.command.wait, self._end_start, row.key, None)
            self._started[row.key] = _EndOfStart(row, waiter.future, timer)

    def _end_start(self, key: int, snapshot: Snapshot | None) -> None:
        waiting = self._started.pop(key, None)
        if waiting is None:
            return
        waiting.timer.cancel()
        if not waiting.future.done():
            row, _, final = snapshot or Snapshot(waiting.row, None, None)
            waiting.future.set_result(StartResult(row, started=True, final=final))

    # Ends.

    @contextlib.contextmanager
    def end_of(self, key: int, seconds: float) -> Iterator[asyncio.Future[Snapshot | None]]:
        """Yield a future of the workflow's end. It is None after so many seconds, or when the server shuts down."""
        future: asyncio.Future[Snapshot | None] = self._loop.create_future()
        waiting = self._ends.setdefault(key, set())
        waiting.add(future)
        timer = self._loop.call_later(seconds, _resolve, future)
        try:
            yield future
        finally:
            timer.cancel()
            waiting.discard(future)
            if not waiting and self._ends.get(key) is waiting:
                del self._ends[key]

    def __contains__(self, key: int) -> bool:
        return key in self._started or key in self._ends

    def keys(self) -> set[int]:
        """Return the keys of the workflows for whose end someone waits."""
        return {*self._started, *self._ends}

    def ended(self, row: Row, final: event_pb2.Event) -> None:
        """Report a committed end to all that wait for it."""
        snapshot = Snapshot(row, None, final)
        self._end_start(row.key, snapshot)
        for future in self._ends.pop(row.key, ()):
            if not future.done():
                future.set_result(snapshot)

    # Messages.

    def expect_message(self, message_id: int) -> asyncio.Future[None]:
        """Return a future that is resolved when the message is in its workflow's history."""
        future = self._messages.get(message_id)
        if future is None:
            future = self._messages[message_id] = self._loop.create_future()
        return future

    async def message_taken(self, message_id: int) -> None:
        """Wait until the message is in its workflow's history, but no longer than the patience."""
        future = self.expect_message(message_id)
        timer = self._loop.call_later(self._patience, _resolve, future)
        try:
            await asyncio.shield(future)
        finally:
            timer.cancel()
            self._messages.pop(message_id, None)

    def messages_taken(self, message_ids: tuple[int, ...]) -> None:
        """Report messages that are committed into the history."""
        for message_id in message_ids:
            future = self._messages.pop(message_id, None)
            if future is not None:
                _resolve(future)

    def drain(self) -> None:
        """Release all that wait for an end, because the server shuts down."""
        for key in list(self._started):
            self._end_start(key, None)
        for waiting in list(self._ends.values()):
            for future in waiting:
                _resolve(future)


def _input_of(started: event_pb2.Event) -> payload_pb2.Payload | None:
    detail = started.workflow_started
    return detail.input if detail.HasField("input") else None


def _resolve(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # The caller may have disconnected, and nothing else reads it then.
