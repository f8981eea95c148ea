"""The server's time never goes back, and follows the wall clock unless that is behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow_server.runtime.clock import CARRIED, SPEED, SystemClock

HOUR = 3_600.0
DAY = 24 * HOUR
NOW = 1_800_000_000.0
#: The rounding error of a present-day time, in seconds.
ROUNDING = 1e-5


@dataclass
class Host:
    """The clocks of a host, which the tests move."""

    wall: float = NOW
    monotonic: float = 50.0

    def clock(self) -> SystemClock:
        return SystemClock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_it_equals_the_wall_clock_while_that_goes_forward() -> None:
    host = Host()
    clock = host.clock()
    for seconds in (0.0, 0.25, HOUR):
        host.passes(seconds)
        assert clock.time() == host.wall
        assert clock.monotonic() == host.monotonic
    host.wall += DAY
    assert clock.time() == host.wall, "suspended, or set forward"
    assert clock.behind() == 0


def test_set_back_by_an_hour_it_continues_until_the_wall_clock_has_caught_up() -> None:
    host = Host()
    clock = host.clock()
    before = clock.time()
    host.wall -= HOUR
    assert clock.time() == before
    assert clock.behind() == HOUR
    host.passes(10.0)
    assert clock.time() == pytest.approx(before + 9.0, abs=ROUNDING)
    for _ in range(990):
        host.passes(HOUR / 100)
        assert host.wall < clock.time() <= before + 9 * HOUR
    for _ in range(10):
        host.passes(HOUR / 100)
        clock.time()
    assert clock.time() == host.wall


def test_set_back_twice_it_continues_from_the_last_reading() -> None:
    host = Host()
    clock = host.clock()
    host.wall -= HOUR
    clock.time()
    host.wall += 2 * HOUR
    ahead = clock.time()
    host.passes(100.0)
    host.wall -= HOUR
    assert clock.time() == ahead
    host.passes(10.0)
    assert clock.time() == pytest.approx(ahead + 9.0, abs=ROUNDING)


def test_many_short_readings_do_not_slow_it_down() -> None:
    host = Host()
    clock = host.clock()
    host.wall -= HOUR
    before = clock.time()
    for _ in range(100_000):
        host.passes(1e-7)
        clock.time()
    assert clock.time() == pytest.approx(before + 0.009, abs=ROUNDING)


@pytest.mark.parametrize(
    ("ahead", "continues"), [(-HOUR, False), (0.0, False), (HOUR, True), (CARRIED, True), (CARRIED + 1, False)]
)
def test_it_continues_from_the_time_of_the_last_process(ahead: float, *, continues: bool) -> None:
    host = Host()
    clock = host.clock()
    clock.resume_from(NOW + ahead)
    assert clock.time() == (NOW + ahead if continues else NOW)
    assert clock.behind() == (ahead if continues else 0)
    host.passes(10.0)
    assert clock.time() == pytest.approx(NOW + ahead + 9.0 if continues else NOW + 10.0, abs=ROUNDING)


#: Events on the host: the wall clock moves by the first number, then the second number of seconds passes.
MOVES = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.001, HOUR)) | st.floats(-2 * DAY, 2 * DAY) | st.floats(-2.0, 2.0),
        st.sampled_from((0.0, 1e-7)) | st.floats(0, 1.0) | st.floats(0, DAY),
    ),
    max_size=40,
)


@given(MOVES)
def test_it_never_goes_back_whatever_the_wall_clock_does(moves: list[tuple[float, float]]) -> None:
    host = Host()
    clock = host.clock()
    last, last_monotonic = clock.time(), host.monotonic
    for set_by, seconds in moves:
        host.wall += set_by
        host.passes(seconds)
        now = clock.time()
        assert now >= last, "it went back"
        if host.wall >= last:
            assert now == host.wall, "the wall clock is ahead, and is not adopted"
        else:
            passed = host.monotonic - last_monotonic
            assert host.wall < now <= last + SPEED * passed + ROUNDING, "it went too fast to be caught up with"
        last, last_monotonic = now, host.monotonic
    # Without more changes, it becomes the wall clock's time.
    ahead = last - host.wall
    if ahead > 0:
        host.passes(ahead / 2)
        assert clock.time() <= last + SPEED * ahead / 2 + ROUNDING
        host.passes(ahead / (1 - SPEED) + 1.0)
    assert clock.time() == host.wall


@given(st.floats(0.001, DAY), st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=60))
def test_set_back_it_loses_a_tenth_and_at_its_edges_the_time_between_two_readings(
    back: float, steps: list[float]
) -> None:
    host = Host()
    clock = host.clock()
    before = clock.time()
    host.wall -= back
    passed = 0.0
    for seconds in steps:
        host.passes(seconds)
        passed += seconds
        least = max(SPEED * (passed - 2 * max(steps)), passed - back)
        assert clock.time() >= before + least - ROUNDING
