"""A workflow on a real server whose code changes from one life of the server to the next, and its promises."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2
from tests.fuzz.edits import RAN, Node, effects_of
from tests.fuzz.opened_calls import OPENS, opened_by, opened_key, particulars

if TYPE_CHECKING:
    from mendflow.v1.event_pb2 import Event

_BY_CODE = {*OPENS, "value_recorded"}


@dataclass
class Deployed:
    """A workflow on a real server whose code changes from one life of the server to the next."""

    id: str
    programs: list[Node]
    #: The recorded events at the end of each life.
    histories: list[list[Event]] = field(default_factory=list)

    def report(self) -> str:
        events = self.histories[-1]
        lines = [f"{event.sequence:4} {event.WhichOneof('detail')} {particulars(event)}" for event in events]
        return "\n".join(["", self.id, *map(str, self.programs), *lines])

    def paused_from(self, sequence: int) -> bool:
        """Return whether code that does not fit has paused the workflow after this event."""
        return any(
            event.workflow_paused.reason == event_pb2.STATE_REASON_NON_DETERMINISM
            for event in self.histories[-1][sequence:]
        )

    @property
    def new(self) -> set[str]:
        """The calls that the edited code has recorded and the earlier code has not."""
        return opened_by(self.histories[1]) - opened_by(self.histories[0])

    def check(self) -> None:
        """Check the promises after the last life."""
        doubled = {effect for program in self.programs for effect, count in effects_of(program).items() if count > 1}
        keys: dict[int, set[str]] = {}
        for workflow_id, effect, idempotency_key in RAN:
            if workflow_id == self.id:
                keys.setdefault(effect, set()).add(idempotency_key)
        twice = {effect for effect, found in keys.items() if len(found) > 1} - doubled
        assert not twice, f"{twice} ran under two keys{self.report()}"
        if self.programs[0] == self.programs[1]:
            assert not self.paused_from(0), f"unedited code pauses{self.report()}"
        if not self.new:
            assert not self.paused_from(len(self.histories[1])), f"a rollback pauses{self.report()}"
        for event in self.histories[-1]:
            if event.workflow_paused.reason == event_pb2.STATE_REASON_NON_DETERMINISM:
                self._check_pause(event)

    def _check_pause(self, paused: Event) -> None:
        events = self.histories[-1]
        named = re.findall(r"(\S+)(?: \(\w+\))? \(event (\d+)\)", paused.workflow_paused.explanation)
        assert named, self.report()
        assert all(opened_key(events[int(number) - 1]) == key for key, number in named), self.report()
        before = events[paused.sequence - 2]
        by_code = before.WhichOneof("detail") in _BY_CODE and before.time == paused.time
        assert not by_code, f"a pause records nothing of the drive{self.report()}"
