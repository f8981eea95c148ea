"""The workflows in memory.

A workflow is in memory while anything of it runs or is due soon. Its id names
it until its first commit, and its key from then on. The cache evicts what
rests longer; the loader loads it again when its time or a message comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mendflow_server.execution.dispatcher import Dispatcher
    from mendflow_server.execution.execution import Execution
    from mendflow_server.runtime.clock import Clock

log = structlog.get_logger("mendflow.engine")


class ExecutionCache:
    """The executions of this process. One that rests for ``evict_after`` seconds may be evicted."""

    def __init__(self, *, clock: Clock, dispatcher: Dispatcher, evict_after: float) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self._evict_after = evict_after
        self._by_id: dict[str, Execution] = {}
        self._by_key: dict[int, Execution] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Execution]:
        return iter(list(self._by_id.values()))

    def __contains__(self, key: int) -> bool:
        return key in self._by_key

    def find(self, workflow_id: str) -> Execution | None:
        """Return the execution of the workflow with this id, which may not be committed yet."""
        return self._by_id.get(workflow_id)

    def get(self, key: int) -> Execution | None:
        """Return the execution of the committed workflow with this key."""
        return self._by_key.get(key)

    def add(self, execution: Execution) -> None:
        """Add an execution, under its key too if it has one."""
        row = execution.row
        self._by_id[row.workflow_id] = execution
        if row.key:
            self._by_key[row.key] = execution

    def remove(self, execution: Execution) -> None:
        """Remove an execution, unless another one has its place."""
        row = execution.row
        if self._by_id.get(row.workflow_id) is execution:
            del self._by_id[row.workflow_id]
        if self._by_key.get(row.key) is execution:
            del self._by_key[row.key]

    def evict(self, execution: Execution) -> None:
        """Evict an execution and remove it, whatever a ``finally`` of its code raises then."""
        try:
            execution.evict()
        except BaseException:
            row = execution.row
            log.exception("engine_fault_in_eviction", workflow_id=row.workflow_id, error_id=row.uid)
        self.remove(execution)

    def evict_all(self) -> None:
        """Evict every workflow and interrupt its attempts."""
        for execution in self:
            self.evict(execution)

    def evict_stored(self) -> list[int]:
        """Evict the stored workflows of which nothing runs here, also those that are due soon; return their keys."""
        idle = [execution for execution in self._by_key.values() if execution.idle]
        for execution in idle:
            self.evict(execution)
        return [execution.row.key for execution in idle]

    def evict_stopped(self, reasons: Collection[int]) -> None:
        """Evict the workflows that are stopped for one of these reasons, because other replicas may drive them now."""
        for execution in list(self._by_key.values()):
            if execution.row.reason in reasons:
                self.evict(execution)

    def evict_idle(self, *, at_once: bool = False) -> int:
        """Evict what rests; return how many. What is due soon stays, and so does what has just come to rest.

        With ``at_once`` the latter goes too, because memory is needed.
        """
        now, wall = self._clock.monotonic(), self._clock.time()
        patience = 0.0 if at_once else self._evict_after
        soon = round((wall + self._evict_after) * 1e6)
        idle = [
            execution
            for execution in self._by_key.values()
            if execution.idle
            and not self._dispatcher.is_dirty(execution)
            and now - execution.rested >= patience
            and (execution.row.wake_time is None or execution.row.wake_time > soon)
        ]
        for execution in idle:
            self.evict(execution)
        return len(idle)
