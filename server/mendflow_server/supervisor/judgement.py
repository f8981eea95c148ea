"""The judgement of a process's end: what it left in flight, whose fault the end may be, and what continues."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from mendflow_server.engine.loader import LOAD_PAGE
from mendflow_server.healing.crash_budget import Unit
from mendflow_server.history.state import MOVING_STATES, History
from mendflow_server.supervisor.unfinished import RETRIED_BY_CODE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mendflow_server.engine.loader import Loader
    from mendflow_server.execution.crash_marker import Marks
    from mendflow_server.healing.crash_guard import CrashGuard
    from mendflow_server.store.records import Life, Loaded, Suspect
    from mendflow_server.store.replicas import Claimed


class Left(NamedTuple):
    """A workflow that a process has left, with its decoded history; None where that cannot be decoded."""

    loaded: Loaded
    history: History | None


def decoded(loaded: Loaded) -> Left:
    """Return a loaded workflow with its history."""
    try:
        return Left(loaded, History.of(loaded.events))
    except Exception:  # noqa: BLE001 - the loader reports it when it brings the workflow in
        return Left(loaded, None)


class Judge:
    """Judges the ends of processes, and brings in what they have left."""

    def __init__(self, *, loader: Loader, guard: CrashGuard) -> None:
        self._loader = loader
        self._guard = guard

    async def judge(
        self, previous: Life | None, ledger: Sequence[Suspect], left: Sequence[Left], marks: Marks | None
    ) -> int:
        """Apply the crash budget to the end of a process; return how many units are quarantined.

        ``previous`` is the process's life (None on a new store), ``ledger`` what it had written, ``left`` what it has
        left, ``marks`` what executed then. Without marks any code that was in progress may have executed.
        """
        in_flight = {unit: sequence for each in left for unit, sequence in _units(each)}
        if marks is None:
            flying = {unit.key for unit in in_flight}
            for each in left:
                row = each.loaded.row
                if row.state in MOVING_STATES and row.key not in flying:
                    in_flight[Unit(row.key, "")] = 0
            return await self._guard.judge(previous, ledger, in_flight, set())
        executing = {unit for unit, sequence in in_flight.items() if (unit.key, sequence) in marks.attempts}
        if marks.code:
            code = Unit(marks.code, "")
            in_flight[code] = 0
            executing.add(code)
        left_behind = _blame_owners(left, in_flight, executing, marks)
        return await self._guard.judge(previous, ledger, in_flight, executing, left_behind=left_behind)

    def forget(self) -> None:
        """Forget all earlier judgements, because another replica watches their suspects from now on."""
        self._guard.forget()

    async def bring_in(self, left: Iterable[Left], claimed: Mapping[int, Claimed] | None = None) -> None:
        """Continue what a process has left. ``claimed`` has the workflows that were claimed for that, by key."""
        for index, (loaded, history) in enumerate(left):
            row = loaded.row
            retry = row.reason in RETRIED_BY_CODE
            previous = claimed[row.key].replica_id if claimed is not None and row.key in claimed else None
            self._loader.bring_in(loaded, history=history, retry=retry, previous_replica_id=previous)
            if index % LOAD_PAGE == LOAD_PAGE - 1:
                await asyncio.sleep(0)  # The first workflows continue while the rest is brought in.


def _units(left: Left) -> list[tuple[Unit, int]]:
    """Return what of a workflow was in flight, with the sequence of its AttemptStarted."""
    if left.history is None:
        return []
    key = left.loaded.row.key
    return [
        (Unit(key, record.key), record.started.sequence) for record in left.history.open_attempts() if record.started
    ]


def _blame_owners(left: Iterable[Left], in_flight: dict[Unit, int], executing: set[Unit], marks: Marks) -> bool:
    """Add the owners of closed attempts whose code still executed; return whether an owner has ended."""
    is_open = {each.loaded.row.key for each in left}
    attempts = {(unit.key, sequence) for unit, sequence in in_flight.items()}
    ended = False
    for key, _ in marks.attempts - attempts:
        units = {unit for unit in in_flight if unit.key == key}
        if not units and key in is_open:
            units = {Unit(key, "")}
            in_flight[Unit(key, "")] = 0
        executing |= units
        ended |= not units
    return ended
