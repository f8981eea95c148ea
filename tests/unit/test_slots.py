"""Slots: which attempts may run, and which wait in line."""

from __future__ import annotations

import functools

from mendflow_server.attempts.slots import SHARE, Slots


def in_line(slots: Slots, count: int) -> list[int]:
    """Make this many attempts wait, and return the list of those that get a slot."""
    served: list[int] = []

    def wanted(number: int) -> bool:
        served.append(number)
        return True

    slots.waiting.extend(functools.partial(wanted, number) for number in range(count))
    return served


def test_of_many_slots_kept_at_once_the_line_gets_its_share_and_no_more() -> None:
    slots = Slots(8 * SHARE)
    while slots.take():
        pass
    served = in_line(slots, 8 * SHARE)
    for _ in range(8 * SHARE):
        slots.keep()
    assert served == list(range(8))
    assert slots.free == 8 * SHARE - 8
    slots.offer()
    assert len(served) == 8 * SHARE
    assert slots.free == 0


def test_closed_attempts_hold_no_slot_up_to_as_many_as_there_are_slots() -> None:
    slots = Slots(2)
    for number in range(4):
        assert slots.take(), number
        slots.note_hung()
        assert slots.exhausted == (number == 3)
    assert not slots.take()
    slots.hung_ended()
    assert slots.take()
    assert not slots.take()
    slots.give()
    for _ in range(3):
        slots.hung_ended()
    assert (slots.hung, slots.free) == (0, 2)


def test_a_withdrawn_attempt_does_not_use_up_the_lines_share() -> None:
    slots = Slots(SHARE)
    while slots.take():
        pass
    slots.waiting.extend([lambda: False, lambda: False])
    served = in_line(slots, 2)
    for _ in range(SHARE):
        slots.keep()
    assert served == [0]
    assert slots.free == SHARE - 1
