"""Faults of health, and the disturbance that tests it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendflow_server.health.monitor import HealthMonitor
from mendflow_server.store.errors import StoreUnavailable
from mendflow_server.supervisor.supervisor import Supervisor
from tests.support.build import Around

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.health.monitor import HealthInputs
    from mendflow_server.store.records import Batch, BatchResult
    from tests.support.build import Build

#: While these files are in the server's directory, `troubled` makes trouble.
NO_TICK, NO_COMMIT = Path("no-tick"), Path("no-commit")


def always_serving(build: Build) -> Build:
    """Health says SERVING, whatever happens."""

    class Rosy(HealthMonitor):
        def __init__(self, clock: Any, settings: Any, inputs: Callable[[], HealthInputs]) -> None:
            super().__init__(clock, settings, lambda: _rosy(inputs()))

        def probe(self, loop_lag: float = 0.0) -> None:
            super().probe()

    return build.with_parts(health=Rosy)


def _rosy(inputs: HealthInputs) -> HealthInputs:
    return replace(
        inputs,
        oldest_uncommitted_age=None,
        last_commit_age=0.0,
        last_tick_age=0.0,
        recovered=True,
        draining=False,
        store_failure="",
        store_damage="",
    )


def never_serving_again(build: Build) -> Build:
    """Health that has said NOT_SERVING once never says SERVING again."""

    class Sulking(HealthMonitor):
        def __init__(self, clock: Any, settings: Any, signals: Callable[[], HealthInputs]) -> None:
            self.sulks = False
            super().__init__(
                clock, settings, lambda: replace(signals(), recovered=signals().recovered and not self.sulks)
            )

        def probe(self, loop_lag: float = 0.0) -> None:
            serving = self.ready.ok
            super().probe(loop_lag)
            self.sulks = self.sulks or (serving and not self.ready.ok)

    return build.with_parts(health=Sulking)


def troubled(build: Build) -> Build:
    """A disturbance: no tick of the supervisor, and no commit, while a file of that name is in the directory."""

    class Ticking(Supervisor):
        def tick(self) -> None:
            if not NO_TICK.exists():
                super().tick()

    class Away(Around):
        async def commit(self, batch: Batch) -> BatchResult:
            _fail_if_asked()
            result: BatchResult = await self._inner.commit(batch)
            return result

        async def beat(self, *args: Any, **options: Any) -> None:
            _fail_if_asked()
            await self._inner.beat(*args, **options)

    return build.with_parts(supervisor=Ticking).with_store(Away)


def _fail_if_asked() -> None:
    if NO_COMMIT.exists():
        raise StoreUnavailable("the disk is away")
