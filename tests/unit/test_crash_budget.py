"""The crash budget quarantines a workflow that crashes the server, and never its neighbours."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mendflow_server.healing.crash_budget import EXECUTED, Plan, ReleasePlan, Unit, after_crash, patience
from mendflow_server.store.records import Suspect
from tests.support.scale import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

A, B, C, D = (Unit(key, "charge") for key in range(1, 5))


def death(
    ledger: list[Suspect],
    *flying: Unit,
    executing: Collection[Unit] | None = None,
    lived: float = 1.0,
    budget: int = 3,
) -> Plan:
    """Return the plan after a crash at which these units were in flight; all of them executed if none is named."""
    executed = flying if executing is None else executing
    return after_crash(ledger, flying, executing=executed, innocent=False, lived=lived, budget=budget)


def suspect(unit: Unit, crashes: float, alone: int = 0, *, held: bool = False) -> Suspect:
    """Return an entry of the ledger after so many crashes; one at which the unit only waited is half a crash."""
    return Suspect(unit.key, unit.step_key, int(crashes * EXECUTED), alone, held=held)


# --- one crash after another ---


@pytest.mark.parametrize("budget", [1, 2, 3, 7])
def test_a_killer_on_its_own_is_quarantined_after_exactly_its_budget(budget: int) -> None:
    ledger: list[Suspect] = []
    for number in range(1, budget):
        plan = death(ledger, A, budget=budget)
        assert plan.quarantined == [], number
        assert [*plan.free, *plan.release_plan.start(0.0)] == [A], "on its own it never waits"
        ledger = plan.release_plan.ledger()
    plan = death(ledger, A, budget=budget)
    assert plan.quarantined == [(A, budget)]
    assert plan.ledger == []
    assert plan.free == []
    assert plan.release_plan.start(0.0) == []


def test_after_one_death_no_unit_waits() -> None:
    plan = death([], C, A, B)
    assert plan.free == [A, B, C]
    assert plan.release_plan.start(0.0) == []
    assert plan.ledger == [suspect(A, 1), suspect(B, 1), suspect(C, 1)]


def test_in_flight_at_two_crashes_in_a_row_is_held_until_its_turn() -> None:
    plan = death(death([], A, B).ledger, A, B, C)
    assert plan.free == [C]
    assert [entry for entry in plan.ledger if entry.held] == [suspect(A, 2, held=True), suspect(B, 2, held=True)]


def test_what_only_waits_at_a_death_is_held_after_twice_as_many() -> None:
    ledger: list[Suspect] = []
    for number in range(1, 4):
        plan = death(ledger, A, B, executing=())
        assert plan.free == [A, B], number
        ledger = plan.release_plan.ledger()
    plan = death(ledger, A, B, executing=())
    assert plan.free == []
    assert plan.ledger == [suspect(A, 2, held=True), suspect(B, 2, held=True)]


def test_what_executes_at_two_deaths_is_held_and_what_waits_beside_it_is_not() -> None:
    first = death([], A, B, C, executing={A})
    assert first.ledger == [suspect(A, 1), suspect(B, 0.5), suspect(C, 0.5)]
    second = death(first.ledger, A, B, C, executing={A})
    assert [entry for entry in second.ledger if entry.held] == [suspect(A, 2, held=True)]
    assert second.free == [B, C]


@pytest.mark.parametrize("budget", [1, 2, 3, 7])
def test_a_killer_that_only_waits_is_blamed_in_full_when_it_is_on_its_own(budget: int) -> None:
    ledger: list[Suspect] = []
    for _ in range(1, budget):
        ledger = death(ledger, A, executing=(), budget=budget).release_plan.ledger()
    assert death(ledger, A, executing=(), budget=budget).quarantined == [(A, budget)]


def test_not_in_flight_at_the_second_death_is_forgotten() -> None:
    plan = death(death([], A, B).ledger, B)
    assert [entry.key for entry in plan.ledger] == [B.key]


def test_an_innocent_death_clears_all_suspicion_and_frees_the_held() -> None:
    ledger = [suspect(A, 5, 2, held=True), suspect(B, 2, 1)]
    plan = after_crash(ledger, {B, C}, executing={B}, innocent=True, lived=1.0, budget=3)
    assert (plan.ledger, plan.quarantined, plan.free) == ([], [], [A, B, C])
    assert plan.release_plan.start(0.0) == []


def test_a_held_suspect_keeps_its_count_and_stays_held() -> None:
    ledger = [suspect(A, 3, 1), suspect(B, 2, 0, held=True)]
    plan = death(ledger, A, C)
    assert suspect(B, 2, 0, held=True) in plan.ledger
    assert suspect(A, 4, 2, held=True) in plan.ledger, "the only suspect in flight is blamed"
    assert suspect(C, 1) in plan.ledger, "a newcomer is not"


def test_two_suspects_in_flight_share_no_blame() -> None:
    plan = death([suspect(A, 2), suspect(B, 2)], A, B)
    assert [entry.alone for entry in plan.ledger] == [0, 0]


def test_a_newcomer_that_kills_again_takes_the_death_off_the_suspect() -> None:
    first = death([suspect(A, 2)], A, B)
    assert suspect(A, 3, 1, held=True) in first.ledger
    assert first.release_plan.start(0.0) == [], "the newcomer goes first, the suspect waits"
    second = death(first.release_plan.ledger(), B)
    assert suspect(A, 3, 0, held=True) in second.ledger


def test_a_lone_death_in_company_is_not_enough_even_for_a_budget_of_one() -> None:
    assert death([suspect(A, 2)], A, B, budget=1).quarantined == []
    assert death([suspect(A, 2)], A, budget=1).quarantined == [(A, 1)]


def test_other_units_of_a_quarantined_workflow_do_not_continue() -> None:
    other = Unit(A.key, "ship")
    plan = death([suspect(A, 4, 2), suspect(other, 2, held=True)], A, B)
    assert plan.quarantined == [(A, 3)]
    assert plan.free == [B]
    assert [entry.key for entry in plan.ledger] == [B.key]


def test_before_its_last_chance_a_suspect_waits_for_a_rest() -> None:
    plan = death([suspect(A, 3, 1)], A, B, lived=4.0)
    turns = plan.release_plan
    assert turns.start(100.0) == []
    assert turns.ended(B, 101.0) == [], "no other unit is before it any more"
    assert turns.due == 124.0
    assert turns.tick(math.nextafter(124.0, 0)) == []
    assert turns.tick(124.0) == [A]
    assert death(turns.ledger(), A, C).quarantined == [(A, 3)]


def test_a_death_in_the_rest_clears_the_suspect() -> None:
    plan = death([suspect(A, 3, 1)], A, B)
    assert plan.release_plan.start(100.0) == []
    assert plan.release_plan.ended(B, 101.0) == []
    plan = death(plan.release_plan.ledger(), C)
    assert suspect(A, 4, 0, held=True) in plan.ledger


def test_a_suspect_with_more_than_one_chance_or_on_its_own_does_not_rest() -> None:
    assert death([suspect(A, 2)], A, B).release_plan.ended(B, 0.0) == []
    assert [*death([suspect(A, 2)], A).release_plan.start(0.0)] == [A]
    assert [*death([suspect(A, 3, 2)], A, budget=4).release_plan.start(0.0)] == [A]


# --- the turns ---


def held(count: int) -> list[Unit]:
    return [Unit(key, "") for key in range(count)]


def schedule(units: list[Unit], *, died: int = 0, wait: float = 10.0) -> ReleasePlan:
    entries = [suspect(unit, 2, held=True) for unit in units]
    return ReleasePlan(entries, crashed=units[:died], held=units[died:], patience=wait)


def test_groups_double_while_they_live_long_enough() -> None:
    turns = schedule(held(12))
    sizes, now = [len(turns.start(0.0))], 0.0
    while turns.due is not None:
        now = turns.due
        assert turns.tick(math.nextafter(now, 0)) == []
        sizes.append(len(turns.tick(now)))
    assert sizes == [1, 2, 4, 5, 0]
    assert turns.ledger() == [], "who lived is trusted again"


def test_the_next_group_starts_as_soon_as_the_last_has_ended() -> None:
    turns = schedule(held(3))
    assert turns.start(0.0) == [Unit(0, "")]
    assert turns.ended(Unit(0, ""), 0.5) == [Unit(1, ""), Unit(2, "")]
    assert turns.ended(Unit(1, ""), 1.0) == []
    assert turns.ended(Unit(2, ""), 1.0) == []
    assert turns.due is None


def test_a_released_unit_is_no_longer_stored_as_held() -> None:
    turns = schedule(held(2))
    turns.start(0.0)
    assert [entry.held for entry in turns.ledger()] == [False, True]
    assert not turns.is_held(Unit(0, ""))
    assert turns.is_held(Unit(1, ""))


def test_a_unit_cancelled_in_its_wait_leaves_the_queue() -> None:
    turns = schedule(held(2))
    turns.start(0.0)
    assert turns.ended(Unit(1, ""), 1.0) == []
    assert turns.tick(100.0) == []
    assert turns.ledger() == []


def test_a_group_that_died_is_halved_comes_first_and_is_not_mixed() -> None:
    ledger = [suspect(unit, 2) for unit in held(5)] + [suspect(Unit(9, ""), 2, held=True)]
    plan = death(ledger, *held(5))
    turns = plan.release_plan
    assert turns.start(0.0) == held(5)[:2]
    assert turns.tick(turns.due or 0.0) == held(5)[2:]
    assert turns.tick(turns.due or 0.0) == [Unit(9, "")]


def test_suspects_wait_for_the_units_that_continued_at_once() -> None:
    plan = death([suspect(A, 1)], A, B, lived=4.0)
    assert plan.release_plan.start(100.0) == []
    assert plan.release_plan.due == 108.0
    assert plan.release_plan.ended(B, 101.0) == [A]


def test_nothing_is_released_before_the_start() -> None:
    turns = schedule(held(2))
    assert turns.tick(1e9) == []
    assert turns.ended(Unit(5, ""), 1e9) == []


@pytest.mark.parametrize(("lived", "expected"), [(0.0, 5.0), (2.5, 5.0), (10.0, 20.0), (300.0, 600.0), (1e9, 600.0)])
def test_patience_is_twice_the_life_within_bounds(lived: float, expected: float) -> None:
    assert patience(lived) == expected


# --- a whole server, killed again and again ---


@dataclass
class Job:
    """A unit of the simulated world, with the time after which it kills or ends. With neither, it runs forever."""

    unit: Unit
    arrives_in_life: int
    arrives_at: float
    kills_after: float | None = None
    ends_after: float | None = None
    #: Its code has the loop or a thread all the time. Otherwise it waits, and kills by something else that it began.
    executes: bool = True

    def moments(self, since: float) -> list[tuple[float, str, Unit]]:
        """Return when it does what, if it runs since that time."""
        plans = (("kill", self.kills_after), ("end", self.ends_after))
        return [(since + after, what, self.unit) for what, after in plans if after is not None]


@dataclass
class World:
    """Servers that run one after the other on the same ledger, until nothing kills any more."""

    jobs: list[Job]
    budget: int
    crashes: int = 0
    quarantined: list[tuple[Unit, int]] = field(default_factory=list)
    finished: set[Unit] = field(default_factory=set)

    def run(self, limit: int) -> None:
        arrived = [job for job in self.jobs if job.arrives_in_life == 0 and job.arrives_at == 0]
        plan = Plan([], [job.unit for job in arrived], [], ReleasePlan([], crashed=(), held=(), patience=5.0))
        life, known = 0, {job.unit for job in arrived}
        while True:
            outcome = self.live(plan, life, known)
            if outcome is None:
                return
            self.crashes += 1
            assert self.crashes <= limit, (self.crashes, self.quarantined)
            ledger, flying, lived = outcome
            executing = {job.unit for job in self.jobs if job.executes and job.unit in flying}
            plan = after_crash(ledger, flying, executing=executing, innocent=False, lived=lived, budget=self.budget)
            self.quarantined += plan.quarantined
            life += 1

    def live(self, plan: Plan, life: int, known: set[Unit]) -> tuple[list[Suspect], list[Unit], float] | None:
        """Run one server. Return what it leaves when it is killed, or None if it runs forever."""
        by_unit = {job.unit: job for job in self.jobs}
        late = sorted(
            (0.0 if job.arrives_in_life < life else job.arrives_at + 1e4 * (job.arrives_in_life - life), job.unit)
            for job in self.jobs
            if job.unit not in known
        )
        running = dict.fromkeys([*plan.free, *plan.release_plan.start(0.0)], 0.0)
        while True:
            moments = [moment for unit, since in running.items() for moment in by_unit[unit].moments(since)]
            if late:
                moments.append((late[0][0], "arrive", late[0][1]))
            if plan.release_plan.due is not None:
                moments.append((plan.release_plan.due, "tick", Unit(0, "")))
            if not moments:
                return None
            now, what, unit = min(moments)
            if what == "kill":
                return plan.release_plan.ledger(), list(running), now
            if what == "arrive":
                late.pop(0)
                known.add(unit)
                running[unit] = now
            elif what == "end":
                del running[unit]
                self.finished.add(unit)
                running |= dict.fromkeys(plan.release_plan.ended(unit, now), now)
            else:
                running |= dict.fromkeys(plan.release_plan.tick(now), now)


@st.composite
def worlds(draw: st.DrawFn) -> list[Job]:
    jobs = []
    for number in range(draw(st.integers(1, 12))):
        when = st.one_of(st.just((0, 0.0)), st.tuples(st.integers(0, 12), st.floats(0, 60)))
        life, at = draw(when)
        sort = draw(st.sampled_from(["killer", "short", "long", "long"]))
        after = draw(st.floats(0.01, 250))
        jobs.append(
            Job(
                Unit(number + 1, "step"),
                life,
                at,
                kills_after=after if sort == "killer" else None,
                ends_after=after if sort == "short" else None,
                executes=draw(st.booleans()),
            )
        )
    return jobs


@settings(max_examples=scaled(120, 3_000), deadline=None)
@given(jobs=worlds(), budget=st.integers(1, 4))
def test_killers_are_quarantined_soon_and_innocents_never(jobs: list[Job], budget: int) -> None:
    killers = {job.unit for job in jobs if job.kills_after is not None}
    mortal = {job.unit for job in jobs if job.ends_after is not None}
    world = World(jobs, budget)
    halvings = math.ceil(math.log2(len(jobs) + 1))
    world.run(limit=max(1, len(killers)) * (max(budget, 2) + 2 + halvings + len(killers)))
    assert {unit for unit, _ in world.quarantined} == killers
    assert world.finished == mortal, "every innocent that can end has ended"
    assert all(crashes >= budget for _, crashes in world.quarantined)


def test_one_killer_among_a_thousand_is_found_by_halving() -> None:
    jobs = [Job(Unit(number, "step"), 0, 0.0) for number in range(1, 1_001)]
    jobs[700].kills_after = 0.5
    world = World(jobs, budget=3)
    world.run(limit=2 + 10 + 3)
    assert [unit.key for unit, _ in world.quarantined] == [701]


@settings(max_examples=scaled(100, 2_000), deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 3), st.floats(5.5, 30)), min_size=1, max_size=8),
    kills_after=st.floats(0.1, 20),
    budget=st.integers(1, 3),
)
def test_a_stream_of_new_killers_does_not_add_up_against_a_bystander(
    arrivals: list[tuple[int, float]], kills_after: float, budget: int
) -> None:
    bystander = Job(Unit(1, "long"), 0, 0.0)
    killers, life = [Job(Unit(2, "step"), 0, 0.0, kills_after)], 2
    for number, (gap, at) in enumerate(arrivals, start=3):
        # Each arrives when the bystander may just have become the only running suspect.
        life += gap
        killers.append(Job(Unit(number, "step"), life, at, kills_after))
    world = World([bystander, *killers], budget)
    world.run(limit=len(killers) * (max(budget, 2) + 4 + len(killers)))
    assert {unit for unit, _ in world.quarantined} == {job.unit for job in killers}


# --- a server that is killed from outside ---


def killed_from_outside(
    rng: Random, *, step: Callable[[], float], life: Callable[[], float], long: int, crashes: int
) -> list[tuple[Unit, int]]:
    """Kill a server at moments that are independent of its 300 units, and return the quarantined units.

    A new step follows each step that ends, and ``long`` more never end. New units fill each life up to 300.
    """
    numbers = itertools.count(1)
    lasts: dict[Unit, float] = {Unit(next(numbers), "long"): math.inf for _ in range(long)}
    plan = Plan([], list(lasts), [], ReleasePlan([], crashed=(), held=(), patience=5.0))
    quarantined: list[tuple[Unit, int]] = []
    for _ in range(crashes):
        end = life()
        running = {unit: lasts[unit] for unit in [*plan.free, *plan.release_plan.start(0.0)]}
        ends = [(at, unit) for unit, at in running.items()]
        heapq.heapify(ends)
        now = 0.0
        while True:
            while len(running) < 300:
                unit = Unit(next(numbers), "step")
                lasts[unit] = step()
                running[unit] = now + lasts[unit]
                heapq.heappush(ends, (running[unit], unit))
            due = math.inf if plan.release_plan.due is None else plan.release_plan.due
            now = min(ends[0][0], due)
            if now >= end:
                break
            if now == due:
                released = plan.release_plan.tick(now)
            else:
                unit = heapq.heappop(ends)[1]
                del running[unit]
                released = plan.release_plan.ended(unit, now)
            for unit in released:
                running[unit] = now + lasts[unit]
                heapq.heappush(ends, (running[unit], unit))
        plan = after_crash(
            plan.release_plan.ledger(), list(running), executing=running, innocent=False, lived=end, budget=3
        )
        quarantined += plan.quarantined
    return quarantined


@pytest.mark.parametrize("seed", range(5, scaled(7, 25)))
@pytest.mark.parametrize(("step", "lived"), [(0.1, 1.0), (1.0, 3.0), (1.0, 10.0)])
def test_random_kills_from_outside_quarantine_no_unit(seed: int, step: float, lived: float) -> None:
    rng = Random(seed)
    steps, lives = (lambda: rng.expovariate(1 / step)), (lambda: rng.expovariate(1 / lived))
    assert killed_from_outside(rng, step=steps, life=lives, long=0, crashes=10) == []


@pytest.mark.parametrize("seed", range(scaled(3, 20)))
def test_occasional_kills_from_outside_quarantine_no_step_that_outlasts_every_life(seed: int) -> None:
    rng = Random(seed)
    steps, lives = (lambda: rng.expovariate(1)), (lambda: rng.uniform(5, 15))
    assert killed_from_outside(rng, step=steps, life=lives, long=1, crashes=20) == []


# --- code of closed attempts executes ---


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_what_waits_while_code_of_a_closed_attempt_crashes_the_server_is_never_blamed(budget: int) -> None:
    ledger: list[Suspect] = []
    for number in range(1, 12):
        plan = after_crash(
            ledger, {A}, executing=(), left_behind=True, innocent=False, lived=1.0, budget=budget
        )  # fmt: skip
        assert plan.quarantined == [], number
        assert [(entry.evidence, entry.alone) for entry in plan.ledger] == [(number, 0)], "it waited"
        assert [*plan.free, *plan.release_plan.start(0.0)] == [A]
        ledger = plan.release_plan.ledger()
    plan = death(ledger, A, executing=(), budget=1)
    assert plan.quarantined == [(A, 1)], "it is blamed once it is on its own"
