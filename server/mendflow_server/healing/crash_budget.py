"""Who killed the server? The crash budget, pure: no clock, no store.

Theory of operation
===================
A unit is what can kill a process: an attempt of a step, or workflow code (an
empty step key). When a process has died, all that is known is which units were
in flight. One of them did it, the others are its neighbours and must not pay.

**The ledger** lists who could be blamed. A unit in flight at a death enters it
with ``deaths`` 1 and goes on at once; in flight at the next death too, it has 2
and is a *suspect*: held back until its turn. A unit that ends, or lives for
the *patience*, leaves the ledger. The patience is twice as long as the dead
process lived, at least 5 s, at most 10 min: who kills soon, kills within it.

**The turns** of one life. Group zero are the units of the ledger that went on
at once. Then the suspects come in groups of 1, 2, 4, 8 …, each when all of the
group before it have left the ledger. So at any death either members of group
zero were unsettled and no suspect ran, or exactly one group of suspects did.
A group that dies is halved and comes first in the next life.

**The blame.** ``alone`` counts the deaths at which a unit was the only one in
flight, or the only suspect. In the second case a newcomer may have done it:
that newcomer is in the next life's group zero, before the suspect's turn. If
it kills again there, no suspect ran, and the suspect's count begins anew; if
not, it has left the ledger and the count stands. So by killers among its
neighbours an innocent has never more than one death on its count, and
quarantine in company takes two at least. A killer on its own is quarantined
after exactly ``budget`` deaths.

Who kills from outside kills at any time, and may meet the same suspect more
than once. So where the next death would be the last, the next life *rests*
first: for three times the patience no suspect runs. Who kills inside must wait
for that; a life that ends before ended without it, and its count begins anew.

Limits: a unit that kills only after more than 10 min is not found. A process
killed from outside, again and again with the same single unit in flight, looks
as if that unit had done it; with others in flight only if, on top of that, a
life outlives its rest and is killed before its suspect has ended.

**What must be on disk.** `Schedule.ledger` after `Schedule.start`, before any
of the released units runs, and again before each later group runs. When a
member leaves the ledger, that may be written late: it only costs a suspicion.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from mendflow_server.store.records import Suspect

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["Plan", "Schedule", "Unit", "after_death", "patience"]

#: Deaths in a row at which a unit must have been in flight to be held back.
SUSPECTED: Final = 2
#: The least and the most patience, in seconds.
SHORTEST_PATIENCE: Final = 5.0
LONGEST_PATIENCE: Final = 600.0
#: How many patiences a life rests before a suspect's last chance; at most the longest patience.
REST: Final = 3.0
#: Deaths that quarantine takes when others were in flight: of one alone a newcomer may be guilty.
LEAST_IN_COMPANY: Final = 2


class Unit(NamedTuple):
    """What can kill a process. ``step_key`` is empty for workflow code itself."""

    key: int
    step_key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next life does after a death."""

    #: The ledger as it stands before `Schedule.start`.
    ledger: list[Suspect]
    #: Go on at once.
    free: list[Unit]
    #: Never go on by themselves; with the deaths on each one's count.
    quarantined: list[tuple[Unit, int]]
    #: When the suspects go on.
    schedule: Schedule


def patience(lived: float) -> float:
    """Answer how long a unit must live to be trusted, when the process that died lived so long."""
    return min(max(2 * lived, SHORTEST_PATIENCE), LONGEST_PATIENCE)


def after_death(
    ledger: Sequence[Suspect], in_flight: Collection[Unit], *, innocent: bool, lived: float, budget: int
) -> Plan:
    """Answer what follows a death.

    ``ledger`` is what the life that ended had written, ``in_flight`` what it
    left open, ``lived`` how long it was in seconds. An ``innocent`` death (a
    recorded drain, a lost lease) clears all suspicion: everything is free.
    """
    before = {Unit(entry.key, entry.step_key): entry for entry in ledger}
    flying = sorted(set(in_flight))
    held = sorted(unit for unit, entry in before.items() if entry.held and unit not in in_flight)
    if innocent:
        return Plan([], sorted({*flying, *held}), [], Schedule([], died=(), held=(), patience=patience(lived)))

    died = [unit for unit in flying if unit in before and before[unit].deaths >= SUSPECTED]
    unsettled = [unit for unit in flying if unit in before and before[unit].deaths < SUSPECTED]
    entries: dict[Unit, Suspect] = {}
    quarantined: list[tuple[Unit, int]] = []
    only_one = len(flying) == 1
    enough = budget if only_one else max(budget, LEAST_IN_COMPANY)
    last_chance = False
    for unit in flying:
        entry = before.get(unit, Suspect(unit.key, unit.step_key, 0, 0, held=False))
        blamed = only_one or (died == [unit] and not unsettled)
        alone = entry.alone + blamed
        deaths = entry.deaths + 1
        if blamed and alone >= enough:
            quarantined.append((unit, alone))
        else:
            entries[unit] = replace(entry, deaths=deaths, alone=alone, held=deaths >= SUSPECTED)
            last_chance |= blamed and not only_one and alone + 1 == enough
    for unit in held:
        # No suspect ran: whoever did this death may have done the ones before it as well.
        entries[unit] = before[unit] if died else replace(before[unit], alone=0)
    # A quarantined workflow takes its other units out of the race.
    stopped = {unit.key for unit, _ in quarantined}
    entries = {unit: entry for unit, entry in entries.items() if unit.key not in stopped}
    waiting = [unit for unit in (*unsettled, *held) if unit in entries]
    schedule = Schedule(
        entries.values(),
        died=[unit for unit in died if unit in entries],
        held=waiting,
        patience=patience(lived),
        rests=last_chance,
    )
    free = [unit for unit in flying if unit in entries and not entries[unit].held]
    return Plan(list(entries.values()), free, quarantined, schedule)


class Schedule:
    """The turns of one life. ``now`` is monotonic seconds and comes from outside.

    ``died`` is the group that died, ``held`` the other suspects in their
    order. Groups never mix the two, else halving would come to nothing. One
    that rests first lives for a time without any suspect.
    """

    def __init__(
        self,
        entries: Iterable[Suspect],
        *,
        died: Sequence[Unit],
        held: Sequence[Unit],
        patience: float,
        rests: bool = False,
    ) -> None:
        self._entries = {Unit(entry.key, entry.step_key): entry for entry in entries}
        self._queues = (deque(died), deque(held))
        self._size = max(1, len(died) // 2)
        self._patience = patience
        self._watched = {unit for unit, entry in self._entries.items() if not entry.held}
        self._rest = min(REST * patience, LONGEST_PATIENCE) if rests else 0.0
        self._since: float | None = None

    def start(self, now: float) -> list[Unit]:
        """Begin the life, in which the plan's free units run from now on; answer the suspects that go with them."""
        self._since = now
        return self._advance(now)

    def ended(self, unit: Unit, now: float) -> list[Unit]:
        """Note that a unit has ended, or was cancelled in its wait; answer who goes on now."""
        self._entries.pop(unit, None)
        self._watched.discard(unit)
        for queue in self._queues:
            if unit in queue:
                queue.remove(unit)
        return self._advance(now)

    def tick(self, now: float) -> list[Unit]:
        """Let time pass; answer who goes on now."""
        return self._advance(now)

    @property
    def due(self) -> float | None:
        """When the next `tick` may bring something; None: never."""
        if self._since is None or not (self._watched or self._rest):
            return None
        return self._since + (self._rest or self._patience)

    def is_held(self, unit: Unit) -> bool:
        """Tell whether a unit still waits for its turn."""
        entry = self._entries.get(unit)
        return entry is not None and entry.held

    def ledger(self) -> list[Suspect]:
        """Answer the ledger as it stands now, to be written."""
        return list(self._entries.values())

    def _advance(self, now: float) -> list[Unit]:
        """Settle the group that is out; when it is settled, release the next."""
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
