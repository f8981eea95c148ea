"""The crash budget: which unit crashed the server? Pure functions, without a clock or a store.

Theory of operation
===================
A unit is what can crash a process: an attempt of a step, or workflow code (an
empty step key). After a crash all that is known is which units were in flight,
and which of these executed: their code had the event loop or a thread. One unit
in flight is guilty. The others are its neighbours and must not pay.

**The evidence.** A unit that executed may have crashed the process itself. One
that only waited may have done it too, but by something else that it began: a
thread, a task, memory. So a crash counts 2 against a unit that executed or was
the only one in flight, and 1 against any other.

**The ledger** lists the units that could be blamed. A unit in flight at a
crash enters it with that ``evidence`` and continues at once. The evidence of
crashes in a row adds up. With 4 the unit becomes a *suspect*: the server holds
it back until its turn. So that takes two crashes at which the unit executed, or
four at which it waited. A unit that ends, or runs for the *patience*, leaves the
ledger. The patience is twice the time that the crashed process ran, at least
5 s and at most 10 min: a unit that crashes the process early does so within it.

**The release plan** orders the turns of one run of the server. Group zero are
the units of the ledger that continued at once. Then the suspects follow in
groups of 1, 2, 4, 8 …, each as soon as all of the group before it have left
the ledger. So at any crash either members of group zero were unsettled and no
suspect ran, or exactly one group of suspects ran. A group that was released at
a crash is halved and comes first in the next run.

**The blame.** ``alone`` counts the crashes at which a unit was the only one in
flight, or the only suspect. In the second case a newcomer may be guilty. That
newcomer is in the next run's group zero, before the suspect's turn. If it
crashes the server again there, no suspect ran, and the suspect's count starts
at zero. Otherwise the newcomer has left the ledger, and the count stands. So a
guilty neighbour never brings an innocent unit's count above one, and
quarantine in company takes at least two. A guilty unit that runs by itself is
quarantined after exactly ``budget`` crashes.

**What is left behind.** The thread of a step may outlive the attempt, whose
timeout has closed it: that is hung code. While the workflow is open, that code counts as executing
code of the workflow: as its attempts in flight, or as its workflow code where
it has none. The workflow may also have ended. Then the code is no unit, no
unit was alone, and the crash blames none.

A kill from outside comes at any time and may hit the same suspect more than
once. So where the next crash would be the last, the next run *rests* first:
for three times the patience no suspect runs. A guilty unit must wait for its
release. A run that ends earlier ended without the suspect, and the suspect's
count starts at zero.

Limits: the budget does not find a unit that crashes the server only after more
than 10 min. A process that is killed from outside again and again, with the
same single unit in flight, looks as if that unit were guilty. With others in
flight this takes, in addition, a run that outlasts its rest and is killed
before its suspect has ended.

**What must be committed.** `ReleasePlan.ledger` after `ReleasePlan.start`,
before any released unit runs, and again before each later group runs. The
removal of a unit may be written late; that only costs a suspicion.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from mendflow_server.store.records import Suspect

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["Plan", "ReleasePlan", "Unit", "after_crash", "patience"]

#: The evidence of one crash against a unit that executed, or was the only one in flight, and against any other.
EXECUTED: Final = 2
WAITED: Final = 1
#: A unit with so much evidence from crashes in a row is held back.
SUSPECTED: Final = 2 * EXECUTED
#: The least and the most patience, in seconds.
SHORTEST_PATIENCE: Final = 5.0
LONGEST_PATIENCE: Final = 600.0
#: A run rests for so many patiences before a suspect's last chance; at most for the longest patience.
REST: Final = 3.0
#: Quarantine takes so many crashes when other units were in flight, because a newcomer may be guilty of one.
LEAST_IN_COMPANY: Final = 2


class Unit(NamedTuple):
    """What can crash a process. ``step_key`` is empty for workflow code."""

    key: int
    step_key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next run of the server does after a crash."""

    #: The ledger before `ReleasePlan.start`.
    ledger: list[Suspect]
    #: These units continue at once.
    free: list[Unit]
    #: These units stop until an operator resumes them; with the crashes counted against each.
    quarantined: list[tuple[Unit, int]]
    #: When the suspects continue.
    release_plan: ReleasePlan


def patience(lived: float) -> float:
    """Return how long a unit must run to be trusted, in seconds; ``lived`` is how long the crashed process ran."""
    return min(max(2 * lived, SHORTEST_PATIENCE), LONGEST_PATIENCE)


def after_crash(
    ledger: Sequence[Suspect],
    in_flight: Collection[Unit],
    *,
    executing: Collection[Unit],
    left_behind: bool = False,
    innocent: bool,
    lived: float,
    budget: int,
) -> Plan:
    """Return the plan for the run after a crash.

    ``ledger`` is what the crashed run had written, ``in_flight`` what it left
    open, ``executing`` what of that executed when it ended, ``left_behind``
    whether code executed that is none of these units, ``lived`` how long it ran
    in seconds. An ``innocent`` end (a recorded drain, a lost lease)
    clears all suspicion: every unit is free.
    """
    before = {Unit(entry.key, entry.step_key): entry for entry in ledger}
    flying = sorted(set(in_flight))
    held = sorted(unit for unit, entry in before.items() if entry.held and unit not in in_flight)
    if innocent:
        return Plan([], sorted({*flying, *held}), [], ReleasePlan([], crashed=(), held=(), patience=patience(lived)))

    crashed = [unit for unit in flying if unit in before and before[unit].evidence >= SUSPECTED]
    unsettled = [unit for unit in flying if unit in before and before[unit].evidence < SUSPECTED]
    entries: dict[Unit, Suspect] = {}
    quarantined: list[tuple[Unit, int]] = []
    only_one = len(flying) == 1 and not left_behind
    enough = budget if only_one else max(budget, LEAST_IN_COMPANY)
    last_chance = False
    for unit in flying:
        entry = before.get(unit, Suspect(unit.key, unit.step_key, 0, 0, held=False))
        blamed = only_one or (crashed == [unit] and not unsettled and not left_behind)
        alone = entry.alone + blamed
        evidence = entry.evidence + (EXECUTED if only_one or unit in executing else WAITED)
        if blamed and alone >= enough:
            quarantined.append((unit, alone))
        else:
            entries[unit] = replace(entry, evidence=evidence, alone=alone, held=evidence >= SUSPECTED)
            last_chance |= blamed and not only_one and alone + 1 == enough
    for unit in held:
        # No suspect ran, so the guilty unit of this crash may be guilty of the earlier ones as well.
        entries[unit] = before[unit] if crashed else replace(before[unit], alone=0)
    # A quarantined workflow takes its other units out of the ledger.
    stopped = {unit.key for unit, _ in quarantined}
    entries = {unit: entry for unit, entry in entries.items() if unit.key not in stopped}
    waiting = [unit for unit in (*unsettled, *held) if unit in entries and entries[unit].held]
    release_plan = ReleasePlan(
        entries.values(),
        crashed=[unit for unit in crashed if unit in entries],
        held=waiting,
        patience=patience(lived),
        rests=last_chance,
    )
    free = [unit for unit in flying if unit in entries and not entries[unit].held]
    return Plan(list(entries.values()), free, quarantined, release_plan)


class ReleasePlan:
    """The turns of one run of the server. The caller passes ``now``, in monotonic seconds.

    ``crashed`` is the group that ran at the crash, ``held`` the other suspects
    in their order. A group never mixes the two, because halving would then
    find nothing. With ``rests`` the run starts with a time without any suspect.
    """

    def __init__(
        self,
        entries: Iterable[Suspect],
        *,
        crashed: Sequence[Unit],
        held: Sequence[Unit],
        patience: float,
        rests: bool = False,
    ) -> None:
        self._entries = {Unit(entry.key, entry.step_key): entry for entry in entries}
        self._queues = (deque(crashed), deque(held))
        self._size = max(1, len(crashed) // 2)
        self._patience = patience
        self._watched = {unit for unit, entry in self._entries.items() if not entry.held}
        self._rest = min(REST * patience, LONGEST_PATIENCE) if rests else 0.0
        self._since: float | None = None

    def start(self, now: float) -> list[Unit]:
        """Start the run, in which the plan's free units run; return the suspects released with them."""
        self._since = now
        return self._advance(now)

    def ended(self, unit: Unit, now: float) -> list[Unit]:
        """Note that a unit has ended, or was cancelled while it waited; return the units released by that."""
        self._entries.pop(unit, None)
        self._watched.discard(unit)
        for queue in self._queues:
            if unit in queue:
                queue.remove(unit)
        return self._advance(now)

    def tick(self, now: float) -> list[Unit]:
        """Note the time; return the units released by that."""
        return self._advance(now)

    @property
    def due(self) -> float | None:
        """When the next `tick` may release a unit; None: no tick will."""
        if self._since is None or not (self._watched or self._rest):
            return None
        return self._since + (self._rest or self._patience)

    def is_held(self, unit: Unit) -> bool:
        """Return whether a unit waits for its turn."""
        entry = self._entries.get(unit)
        return entry is not None and entry.held

    def ledger(self) -> list[Suspect]:
        """Return the ledger as it must be written now."""
        return list(self._entries.values())

    def _advance(self, now: float) -> list[Unit]:
        """Settle the group that was released; when it is settled, release the next."""
        if self._since is None:
            return []
        if self._watched or self._rest:
            if now < self._since + (self._rest or self._patience):
                return []
            for unit in self._watched:
                del self._entries[unit]
            self._watched = set()
            self._rest = 0.0
        queue = self._queues[0] or self._queues[1]
        released = [queue.popleft() for _ in range(min(self._size, len(queue)))]
        if released:
            for unit in released:
                self._entries[unit] = replace(self._entries[unit], held=False)
            self._watched = set(released)
            self._since = now
            self._size *= 2
        return released
