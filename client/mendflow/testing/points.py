"""The names of the points in a history: ``attempt_started:charge:2`` is the second attempt of ``charge``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mendflow.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CrashPoint", "matches", "name_of"]

KINDS: Final = tuple(field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields)


def name_of(event: event_pb2.Event) -> str:
    """Return the point's name: the event's kind, the key of its call or signal, and the number of its attempt."""
    kind = event.WhichOneof("detail") or ""
    detail: Any = getattr(event, kind) if kind else None
    parts: list[str] = [kind]
    for field in ("step_key", "key", "name"):
        value = getattr(detail, field, "")
        if value:
            parts.append(value)
            break
    number = getattr(detail, "attempt", 0)
    if number:
        parts.append(str(number))
    return ":".join(parts)


def matches(point: str, event: event_pb2.Event) -> bool:
    """Return whether an event is at a point. The point may leave out the attempt, or all but the kind."""
    name = name_of(event)
    return name == point or name.startswith(f"{point}:")


def check_point(point: str) -> None:
    """Raise ValueError if a point's kind is no kind of event."""
    kind = point.partition(":")[0]
    if kind not in KINDS:
        msg = f"point {point!r} must begin with a kind of event, not {kind!r}; the kinds are {', '.join(KINDS)}"
        raise ValueError(msg)


class CrashPoint:
    """A point of the test's histories at which the engine crashes, once."""

    def __init__(self, point: str, *, nth: int, before: bool) -> None:
        check_point(point)
        if nth < 1:
            msg = f"nth must be 1 or more, not {nth}"
            raise ValueError(msg)
        self.point = point
        self.nth = nth
        #: Whether the event must not be committed.
        self.before = before
        self._seen = 0

    def __str__(self) -> str:
        return f"{'before ' if self.before else ''}{self.point}{'' if self.nth == 1 else f' number {self.nth}'}"

    def reached(self, events: Iterable[event_pb2.Event]) -> bool:
        """Count the events at this point, and return whether the wanted one is among them."""
        seen = self._seen
        self._seen += sum(matches(self.point, event) for event in events)
        return seen < self.nth <= self._seen
