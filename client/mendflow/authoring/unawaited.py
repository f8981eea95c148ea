"""Track what workflow code creates and must await, so that a forgotten ``await`` is an error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mendflow.authoring.calls import Gather
from mendflow.errors import NotAwaited

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mendflow.authoring.fibers import Fiber

__all__ = ["Unawaited", "listed"]

#: The most calls that a message names.
MOST_NAMED = 10


def _references(calls: Mapping[object, Any]) -> list[int]:
    """Return the reference count of each call, as seen from this function."""
    return [sys.getrefcount(call) for call in calls]


#: The reference count of a call that only a dictionary refers to.
UNREFERRED = max(_references({object(): None}))


class Unawaited:
    """The calls and coroutines that the code of a runner has created and not awaited."""

    __slots__ = ("calls", "coroutines")

    def __init__(self) -> None:
        #: The calls in the order of their creation, each with the fiber that created it.
        self.calls: dict[object, Fiber] = {}
        #: Descriptions of the coroutines that were dropped without an await.
        self.coroutines: list[str] = []

    def release_kept(self, fiber: Fiber) -> None:
        """Forget the calls that a fiber, and the fibers that wait for it, keep for later.

        An exception reached the fiber, so it may no longer await them. A call that nothing refers to is not forgotten,
        because no code can await it.
        """
        if not self.calls:
            return
        makers = {fiber}
        while fiber.group is not None:
            fiber = fiber.group.owner
            makers.add(fiber)
        counts = _references(self.calls)
        counted = zip(self.calls.items(), counts, strict=True)
        kept = [call for (call, maker), count in counted if maker in makers and count > UNREFERRED]
        for call in kept:
            del self.calls[call]

    def error(self) -> NotAwaited | None:
        """Return the error of a workflow that ends now; None if it awaited everything."""
        if not self.calls and not self.coroutines:
            return None
        # A forgotten gather stands for its branches.
        inside = {id(branch) for call in self.calls if isinstance(call, Gather) for branch in call.branches}
        names = [str(call) for call in self.calls if id(call) not in inside] + self.coroutines
        msg = f"the workflow ended without awaiting {listed(names)}; write `await` before each"
        return NotAwaited(msg)


def listed(names: Iterable[str]) -> str:
    """Return the names for a message, at most `MOST_NAMED` of them."""
    every = list(names)
    more = len(every) - MOST_NAMED
    return ", ".join(every[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
