"""Conversions between protobuf timestamps, seconds and microseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp


def seconds(moment: Timestamp) -> float:
    """Return a timestamp as seconds since the epoch."""
    return float(moment.seconds + moment.nanos / 1e9)


def set_time(moment: Timestamp, when: float) -> None:
    """Set a timestamp from seconds since the epoch, to the microsecond."""
    micros = micros_of(when)
    moment.seconds = micros // 1_000_000
    moment.nanos = micros % 1_000_000 * 1000


def micros_of(when: float) -> int:
    """Return seconds as whole microseconds, rounded."""
    return int(when * 1_000_000 + 0.5)  # `round` takes three times as long.
