"""Turns: what happens to executions in one pass of the event loop.

Inputs gather in a queue. One callback takes all of them, drives the executions
concerned and flushes each once, so one turn makes one batch. A turn is never
part of a task. Workflow code therefore finds no current task that it could
hang a timeout on, and a caller that disconnects cancels nothing.
"""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow_server.attempts.model import AttemptRequest
    from mendflow_server.attempts.running_attempt import RunningAttempt
    from mendflow_server.runtime.clock import Clock

    _Committed = tuple["Actor", Sequence[AttemptRequest]]


class Actor(Protocol):
    """An execution, as the dispatcher sees it."""

    #: How many of its calls are in the queue.
    queued: int
    #: Whether it was evicted and nothing may follow from it.
    closed: bool

    def begin_turn(self, now: float) -> None:
        """Set the time of new events, in seconds since the epoch."""

    def launch(self, requests: Sequence[AttemptRequest]) -> Sequence[RunningAttempt]:
        """Run committed attempts; return those that ended at once."""

    def ended_at_once(self, attempt: RunningAttempt) -> None:
        """Record the result of an attempt that ended at once."""

    def flush(self) -> None:
        """Submit what has changed."""

    def fail(self, error: BaseException) -> None:
        """Handle an internal error in one of the calls above."""


class Dispatcher:
    """The turns of one event loop, and the stages after a commit."""

    def __init__(self, clock: Clock, offer_slots: Callable[[], None]) -> None:
        self._clock = clock
        #: Called after the attempts of a batch: gives the line the slots that no workflow kept.
        self._offer_slots = offer_slots
        self._loop = asyncio.get_running_loop()
        self._queue: collections.deque[tuple[Actor, Callable[[], None]]] = collections.deque()
        #: Actors to flush in this turn.
        self._dirty: dict[Actor, None] = {}
        #: Actors whose change is committed, with the attempts that it recorded.
        self._committed: list[_Committed] = []
        self._scheduled = False

    @property
    def idle(self) -> bool:
        """Whether no call and no flush waits."""
        return not self._queue and not self._dirty

    def is_dirty(self, actor: Actor) -> bool:
        """Return whether an actor waits for its flush."""
        return actor in self._dirty

    def enqueue(self, actor: Actor, call: Callable[[], None]) -> None:
        """Make a call in the next turn, then flush the actor."""
        actor.queued += 1
        self._queue.append((actor, call))
        self._schedule()

    def after_commit(self, actor: Actor, requests: Sequence[AttemptRequest]) -> None:
        """Run the attempts of a committed change, once its whole batch is settled."""
        self._committed.append((actor, requests))

    def run_stages(self) -> None:
        """Continue the workflows of a settled batch in stages: all attempts, then their results, then all flushes.

        Workflow by workflow takes a fifth longer, because the code of all stages does not fit into the processor's
        cache. This never runs in a task, because it runs the code of workflows and steps.
        """
        committed, self._committed = self._committed, []
        ended = self._launch(committed)
        self._record(ended)
        self._offer_slots()
        self._flush(committed)

    # Each stage has its own `try`, because a call for each of them would cost more than the stage does.

    def _launch(self, committed: list[_Committed]) -> list[tuple[Actor, RunningAttempt]]:
        ended: list[tuple[Actor, RunningAttempt]] = []
        for actor, requests in committed:
            if requests:
                try:
                    for attempt in actor.launch(requests):
                        ended.append((actor, attempt))  # noqa: PERF401 - mostly one
                except BaseException as error:  # noqa: BLE001 - handled there; user code may raise anything
                    actor.fail(error)
        return ended

    def _record(self, ended: list[tuple[Actor, RunningAttempt]]) -> None:
        for actor, attempt in ended:
            if not actor.closed:
                try:
                    actor.ended_at_once(attempt)
                except BaseException as error:  # noqa: BLE001 - as above
                    actor.fail(error)

    def _flush(self, committed: list[_Committed]) -> None:
        for actor, _ in committed:
            if actor.queued:
                # The next turn makes more calls and then flushes it.
                self._dirty[actor] = None
                self._schedule()
            elif not actor.closed:
                try:
                    actor.flush()
                except BaseException as error:  # noqa: BLE001 - as above
                    actor.fail(error)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = self._clock.time()
        queue, dirty = self._queue, self._dirty
        try:
            while queue:
                actor, call = queue.popleft()
                actor.queued -= 1
                if actor.closed:
                    continue
                actor.begin_turn(now)
                dirty[actor] = None
                _guarded(actor, call)
            self._dirty = {}
            for actor in dirty:
                if not actor.closed:
                    _guarded(actor, actor.flush)
        finally:
            self._scheduled = False
            if self._queue or self._dirty:
                self._schedule()


def _guarded(actor: Actor, call: Callable[..., None], *arguments: object) -> None:
    """Make a call; an internal error in one workflow must not stop the others."""
    try:
        call(*arguments)
    except BaseException as error:  # noqa: BLE001 - as above
        actor.fail(error)
