"""A workflow's history, with assertions whose messages have the whole story."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendflow.authoring.step import Step
from mendflow.cli.event_text import describe_event
from mendflow.histories import history_text
from mendflow.testing.points import check_point, matches, name_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from mendflow.v1 import event_pb2

__all__ = ["Count", "WorkflowHistory"]


class Count(int):
    """A number that an assertion compares. With the pytest plugin, a failed comparison shows the history."""

    what: str
    story: str

    @classmethod
    def of(cls, number: int, what: str, story: str) -> Count:
        """Return a number with what it counts and the history that it comes from."""
        count = cls(number)
        count.what = what
        count.story = story
        return count


class WorkflowHistory:
    """The committed events of one workflow."""

    def __init__(self, workflow_id: str, workflow_type: str, events: Sequence[event_pb2.Event]) -> None:
        self.workflow_id = workflow_id
        self.workflow_type = workflow_type
        #: The events, as ``mendflow.v1.Event``.
        self.events = tuple(events)

    def __str__(self) -> str:
        lines = [f"history of {self.workflow_type} {self.workflow_id}:"]
        return "\n  ".join(lines + [describe_event(event) for event in self.events])

    def __repr__(self) -> str:
        return f"<{self}>"

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[event_pb2.Event]:
        return iter(self.events)

    @property
    def points(self) -> list[str]:
        """The name of each event, as `crash_at` and `assert_events` take it, such as ``attempt_started:charge:2``."""
        return [name_of(event) for event in self.events]

    @property
    def steps(self) -> dict[str, int]:
        """The number of attempts of each step, by its key, in the order of their first attempts."""
        counts: dict[str, int] = {}
        for event in self.events:
            if event.HasField("attempt_started"):
                key = event.attempt_started.step_key
                counts[key] = counts.get(key, 0) + 1
        return counts

    def attempts(self, step: Step[..., Any] | str) -> Count:
        """Return the number of attempts of a step. A string is a step's name or the key of one of its calls."""
        name = step.name if isinstance(step, Step) else step
        started = [event.attempt_started for event in self.events if event.HasField("attempt_started")]
        keys = {each.step_key for each in started if each.step_name == name}
        if isinstance(step, str):
            keys.add(step)
        return Count.of(sum(each.step_key in keys for each in started), f"attempts of {name}", str(self))

    def count(self, point: str) -> Count:
        """Return the number of events at a point, such as ``timer_fired`` or ``attempt_failed:charge``."""
        check_point(point)
        return Count.of(sum(matches(point, event) for event in self.events), point, str(self))

    def assert_steps(self, expected: Mapping[str, int]) -> None:
        """Assert which steps ran, by key, and the number of attempts of each, in the order of their first attempts."""
        if list(self.steps.items()) != list(expected.items()):
            msg = f"steps and attempts must be {_listed(expected)}, not {_listed(self.steps)}\n{self}"
            raise AssertionError(msg)

    def assert_events(self, *points: str) -> None:
        """Assert that these points come in this order. Other events may come between them."""
        rest = iter(self.events)
        for index, point in enumerate(points):
            check_point(point)
            if not any(matches(point, event) for event in rest):
                after = f" after {points[index - 1]}" if index else ""
                msg = f"no event {point}{after}\n{self}"
                raise AssertionError(msg)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the history to a file that `replay` reads, as `mendflow export` does."""
        Path(path).write_text(history_text(self.workflow_id, self.workflow_type, self.events), encoding="utf-8")


def _listed(steps: Mapping[str, int]) -> str:
    return ", ".join(f"{key}: {count}" for key, count in steps.items()) or "none"
