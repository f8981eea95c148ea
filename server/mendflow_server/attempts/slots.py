"""How many attempts may run at once."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: After so many attempts that ended at once, the line gets the slot instead of the same workflow.
SHARE = 8


class Slots:
    """A fixed number of slots, and the line of those that wait for one."""

    def __init__(self, size: int) -> None:
        self.free = size
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
