"""Retention: deletes workflows some time after their end, a little at a time.

Each look reads the earliest end of each type, which costs the same however many workflows have ended. Then the purger
works in portions. It pauses after each for a multiple of the time that it took, so that the commits of running
workflows have the store nearly to themselves.
"""

from __future__ import annotations

import asyncio
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
#: The pause after an error of the store, in seconds.
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
        self._failure = ""

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
                self._failed(str(error))
                pause = ERROR_PAUSE
            await self._sleep(pause)

    async def step(self) -> bool:
        """Purge one portion and free another; return whether more is left to do now."""
        more = await self._purge()
        more = await self._store.reclaim() or more
        self._failure = ""
        if self._purged and not more:
            log.info("workflows_purged", count=self._purged)
            self._purged = 0
        return more

    async def _purge(self) -> bool:
        """Purge up to a portion of the workflows of one type; return whether more may be due."""
        now = self._clock.time()
        due = []
        for workflow_type, first in (await self._store.first_ended()).items():
            retention = self._retention_of(workflow_type)
            if retention is not None and first <= micros_of(now - retention):
                due.append((workflow_type, micros_of(now - retention)))
        if not due or not self._may_run():
            return False
        workflow_type, until = due[0]
        count = await self._store.purge_ended(workflow_type, until, limit=PORTION)
        self._purged += count
        return count == PORTION or len(due) > 1

    def _retention_of(self, workflow_type: str) -> float | None:
        """Return how long finished workflows of a type are kept, in seconds; None: without limit."""
        definition = self._definitions.get(workflow_type)
        if definition is None or isinstance(definition.retention, Default):
            return self._default
        return definition.retention

    def _failed(self, why: str) -> None:
        if why != self._failure:
            self._failure = why
            log.warning("purge_failed", error=why)
