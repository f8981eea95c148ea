"""How many attempts may run at once."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: After so many attempts that ended at once, the line gets the slot instead of the same workflow.
SHARE = 8
#: The most attempts whose code runs, for each slot: one that holds it, and one that is closed.
RUNNING_PER_SLOT = 2


class Slots:
    """A fixed number of slots, and the line of those that wait for one.

    Hung code, which still runs although its attempt is closed, might keep a slot forever. So up to ``size`` such
    attempts hold no slot. Each further one holds a slot until one of them ends, which bounds what runs at once.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        #: The number of attempts with hung code.
        self.hung = 0
        #: Each callback gets a slot that was taken for it, and returns False when it no longer needs one.
        self.waiting: collections.deque[Callable[[], bool]] = collections.deque()
        self._kept = 0

    def take(self) -> bool:
        """Take a slot; return False when none is free."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    def give(self) -> None:
        """Return a slot and offer it to the line."""
        self.free += 1
        self.offer()

    def note_hung(self) -> None:
        """Note that an attempt that held a slot is closed while its code still runs."""
        self.hung += 1
        if self.hung <= self.size:
            self.give()

    def hung_ended(self) -> None:
        """Note that hung code has ended."""
        self.hung -= 1
        if self.hung >= self.size:
            self.give()

    @property
    def exhausted(self) -> bool:
        """Whether hung code holds every slot, so that no attempt can start."""
        return self.hung >= RUNNING_PER_SLOT * self.size

    def keep(self) -> None:
        """Return a slot that the same workflow may take again at once; the caller offers the rest afterwards.

        One in `SHARE` times the line gets the slot first.
        """
        self.free += 1
        self._kept += 1
        if self._kept % SHARE == 0:
            self.offer(most=1)

    def offer(self, most: int | None = None) -> None:
        """Give free slots to the line, in its order; at most ``most`` of them."""
        while self.free > 0 and self.waiting and most != 0:
            self.free -= 1
            if not self.waiting.popleft()():
                self.free += 1
            elif most is not None:
                most -= 1
