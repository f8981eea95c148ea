"""What a test hands to the workflows that it calls by hand."""

from __future__ import annotations

import collections
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

from mendflow.authoring.names import checked_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

__all__ = ["HANDED", "ByHand", "by_hand"]


class ByHand:
    """What a test hands to the workflows that it calls, and what it learns of them."""

    def __init__(self, signals: Mapping[str, Sequence[Any]], start: float | None, versions: Mapping[str, bool]) -> None:
        for name, data in signals.items():
            if not isinstance(data, list | tuple):
                msg = f"signals[{name!r}] must be a list with the data of each signal, not {data!r}"
                raise TypeError(msg)
        self._signals = {name: collections.deque(data) for name, data in signals.items()}
        #: When each workflow starts, in seconds since the epoch; None: now.
        self.start = start
        self.versions = {checked_name("version", name): bool(new) for name, new in versions.items()}
        #: The number of attempts of each step, by its key. Workflows that are called one after the other add up.
        self.attempts: dict[str, int] = {}

    def signal(self, name: str, data: Any = None) -> None:
        """Send a signal. The code of a step may do this, so that the signal comes at that time."""
        self._signals.setdefault(name, collections.deque()).append(data)

    def has_signal(self, name: str) -> bool:
        """Return whether a signal with this name waits to be taken."""
        return bool(self._signals.get(name))

    def take_signal(self, name: str) -> Any:
        """Return the data of the oldest signal with this name."""
        return self._signals[name].popleft()


HANDED: contextvars.ContextVar[ByHand | None] = contextvars.ContextVar("mendflow_by_hand", default=None)


@contextlib.contextmanager
def _handing(hand: ByHand) -> Iterator[ByHand]:
    token = HANDED.set(hand)
    try:
        yield hand
    finally:
        HANDED.reset(token)


def by_hand(
    *,
    signals: Mapping[str, Sequence[Any]] | None = None,
    start_time: datetime | None = None,
    versions: Mapping[str, bool] | None = None,
) -> contextlib.AbstractContextManager[ByHand]:
    """Hand signals, a start time and versions to the workflows that are called by hand inside the ``with`` block.

    ``signals`` maps a signal's name to the data of each, in the order in which they came. They are there when the
    workflow starts. ``versions`` has what `mendflow.version` returns for a name; the default is True. Raise TypeError
    if the signals of a name are no list.
    """
    start = None if start_time is None else start_time.timestamp()
    return _handing(ByHand(signals or {}, start, versions or {}))
