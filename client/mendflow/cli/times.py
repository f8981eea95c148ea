"""Times and durations for people. Every time has its date and is in UTC, so it is the same on every machine."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["date_text", "due_text", "precise_text", "seconds_of", "span_text"]

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def date_text(moment: Timestamp) -> str:
    """Return a time to the second, such as 2030-01-31 12:00:00Z. The options --since and --until accept it."""
    return moment.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ")


def precise_text(moment: Timestamp) -> str:
    """Return a time to the millisecond."""
    return moment.ToDatetime().strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.nanos // 1_000_000:03d}Z"


def seconds_of(moment: Timestamp) -> float:
    """Return a time in seconds since the epoch."""
    return moment.seconds + moment.nanos / 1e9


def span_text(seconds: float) -> str:
    """Return a duration with its two largest units, such as 0.25 s or 2 h 5 min."""
    seconds = max(0.0, seconds)
    if seconds < 9.995:  # noqa: PLR2004 - two decimals of less than 10 s
        return f"{seconds:.2f} s"
    return _whole(round(seconds))


def due_text(moment: Timestamp, now: float) -> str:
    """Return when a time comes, such as "in 12 s", or "now" if it has passed."""
    left = seconds_of(moment) - now
    return f"in {_whole(math.ceil(left))}" if left > 0 else "now"


def _whole(seconds: int) -> str:
    for (unit, name), (smaller, its_name) in pairwise(_UNITS):
        if seconds >= unit:
            rest = seconds % unit // smaller
            return f"{seconds // unit} {name} {rest} {its_name}" if rest else f"{seconds // unit} {name}"
    return f"{seconds} s"
