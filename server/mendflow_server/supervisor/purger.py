"""Retention: delete workflows some time after their end, a little at a time.

Each look reads the earliest end of each type, which costs the same however many workflows have ended. Then the purger
works in portions, of each type in turn. It pauses after each for a multiple of the time that it took, so that the
commits of running workflows have the store nearly to themselves. A type whose portion fails is set aside, and the
others are purged.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Final

import structlog

from mendflow.authoring.step import Default
from mendflow_server.history.timestamps import micros_of
from mendflow_server.store.errors import StoreDamaged, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.runtime.clock import Clock
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store

log = structlog.get_logger("mendflow.supervisor")

#: The most workflows in one portion.
PORTION: Final = 100
#: The time between two looks while nothing is due, in seconds.
LOOK: Final = 1.0
#: The shortest pause between two portions, in seconds, and the pause as a multiple of a portion's time.
PAUSE: Final = 0.02
PAUSE_FACTOR: Final = 4.0
#: The pause after an error of the store, and the time for which what failed is set aside, in seconds.
ERROR_PAUSE: Final = 30.0


class Purger:
    """Purges expired workflows and frees their space. It rests while ``may_run`` returns False."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        settings: Settings,
        definitions: Mapping[str, Workflow[Any, Any]],
        may_run: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._default = settings.retention
        self._definitions = definitions
        self._may_run = may_run
        self._sleep = sleep
        #: The number of workflows purged since the log last mentioned it.
        self._purged = 0
        #: The type that had the last turn.
        self._turn = ""
        #: Why the last look failed, by type. An empty type is what concerns all of them.
        self._failures: dict[str, str] = {}
        #: Until when a type is set aside, in monotonic seconds. An empty type is the reclaim.
        self._set_aside: dict[str, float] = {}

    async def run(self) -> None:
        """Purge until cancelled, or until the store is found to be damaged."""
        while True:
            began = self._clock.monotonic()
            pause = LOOK
            try:
                if self._may_run() and await self.step():
                    pause = max(PAUSE, PAUSE_FACTOR * (self._clock.monotonic() - began))
            except StoreDamaged as error:
                log.error("purge_stopped", error=str(error))  # noqa: TRY400 - the error says all
                return
            except StoreError as error:
                self._failed("", str(error))
                pause = ERROR_PAUSE
            await self._sleep(pause)

    async def step(self) -> bool:
        """Purge one portion and free another; return whether more is left to do now."""
        more = await self._purge()
        more = await self._reclaim() or more
        if self._purged and not more:
            log.info("workflows_purged", count=self._purged)
            self._purged = 0
        return more

    async def _purge(self) -> bool:
        """Purge up to a portion of the workflows of one type; return whether more may be due."""
        now = self._clock.time()
        due = []
        first_ended = await self._store.first_ended()
        self._failures.pop("", None)
        for workflow_type, first in first_ended.items():
            retention = self._retention_of(workflow_type)
            if self._is_set_aside(workflow_type):
                continue
            if retention is not None and first <= micros_of(now - retention):
                due.append((workflow_type, micros_of(now - retention)))
        if not due or not self._may_run():
            return False
        # The next one in the order of the alphabet: a type that always has something due keeps no other waiting.
        workflow_type, until = min(due, key=lambda each: (each[0] <= self._turn, each[0]))
        self._turn = workflow_type
        try:
            count = await self._store.purge_ended(workflow_type, until, limit=PORTION)
        except StoreError as error:
            self._put_aside(workflow_type, error)
            return len(due) > 1
        self._failures.pop(workflow_type, None)
        self._purged += count
        return count == PORTION or len(due) > 1

    async def _reclaim(self) -> bool:
        """Free a portion of what purged workflows left; return whether more is left."""
        if self._is_set_aside(""):
            return False
        try:
            return await self._store.reclaim()
        except StoreError as error:
            self._put_aside("", error)
            return False

    def _is_set_aside(self, workflow_type: str) -> bool:
        return self._clock.monotonic() < self._set_aside.get(workflow_type, -math.inf)

    def _put_aside(self, workflow_type: str, error: StoreError) -> None:
        """Set a type, or the reclaim, aside: for a while after an error, until the next start after damage."""
        if isinstance(error, StoreDamaged):
            self._set_aside[workflow_type] = math.inf
            log.error("purge_stopped", error=str(error), **_type_field(workflow_type))
        else:
            self._set_aside[workflow_type] = self._clock.monotonic() + ERROR_PAUSE
            self._failed(workflow_type, str(error))

    def _retention_of(self, workflow_type: str) -> float | None:
        """Return how long finished workflows of a type are kept, in seconds; None: without limit."""
        definition = self._definitions.get(workflow_type)
        if definition is None or isinstance(definition.retention, Default):
            return self._default
        return definition.retention

    def _failed(self, workflow_type: str, why: str) -> None:
        if why != self._failures.get(workflow_type):
            self._failures[workflow_type] = why
            log.warning("purge_failed", error=why, **_type_field(workflow_type))


def _type_field(workflow_type: str) -> dict[str, str]:
    return {"workflow_type": workflow_type} if workflow_type else {}
