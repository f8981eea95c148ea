"""Which of the recorded calls the code has asked for, and which it has passed over.

The rule. A recorded call is *unclaimed* until the code asks for its key;
recorded values do not count. At a rest with unclaimed calls the code may have
asked for nothing new: it may claim them later. Once it has asked for a call
that is neither recorded nor marked as inserted, or has ended, it is not the
code that made the history. An insertion and a replacement look the same here,
so an insertion needs its mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.codec import same_payload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mendflow.authoring.step import Step
    from mendflow.v1.payload_pb2 import Payload
    from mendflow_server.history.state import CallRecord

__all__ = ["Claims", "listed", "opened"]

#: A message names at most so many calls.
MOST_NAMED = 10


class Claims:
    """The recorded calls that the code has not asked for, and what it asked for meanwhile."""

    __slots__ = ("_new", "inserted", "unclaimed")

    def __init__(self, calls: Mapping[str, CallRecord]) -> None:
        #: By key, in the order of their events.
        self.unclaimed = {key: record for key, record in calls.items() if record.kind != "value"}
        #: What the code asked for that is neither recorded nor marked.
        self._new: list[str] = []
        #: What it asked for that is not recorded, but marked.
        self.inserted: list[str] = []

    @property
    def labels(self) -> list[str]:
        """The unclaimed calls, each with the number of its event."""
        return [opened(record) for record in self.unclaimed.values()]

    def claim(self, record: CallRecord | None, label: str, *, inserted: bool) -> None:
        """Take note of a call that the code asks for, with its record if it has one."""
        if record is not None:
            self.unclaimed.pop(record.key, None)
        elif inserted:
            self.inserted.append(label)
        else:
            self._new.append(label)

    def claim_step(self, record: CallRecord | None, key: str, step: Step[..., Any], payload: Payload) -> None:
        """Take note of a step that the code asks for. A marked one that may be a recorded call is new all the same."""
        twin = self._twin(step, payload) if record is None and step.inserted else None
        hint = "" if twin is None else f" (marked as inserted, but it may be the recorded {twin.label})"
        self.claim(record, f"step {key}{hint}", inserted=step.inserted and twin is None)

    def _twin(self, step: Step[..., Any], payload: Payload) -> CallRecord | None:
        """Return an unclaimed record of the same step with the same input: a marked call that was moved, perhaps."""
        for record in self.unclaimed.values():
            if record.kind == "step" and record.name == step.name and same_payload(record.input, payload):
                return record
        return None

    def problem(self, *, done: bool, error: BaseException | None) -> str:
        """Return why the code, which has come to rest or has ended so, does not fit the history; empty: it may."""
        if not self.unclaimed or not (done or self._new):
            return ""
        if self._new:
            instead = f"called {listed(self._new)}, which is not recorded"
        elif error is None:
            instead = "returned"
        else:
            instead = f"raised {type(error).__name__}"
        count = "a call" if len(self.unclaimed) == 1 else f"{len(self.unclaimed)} calls"
        return (
            f"the code did not make {count} that the history records: {listed(self.labels)}. Instead it {instead}. "
            "Nothing new was started. Keep the recorded name of a renamed step with @step(name=...), or serve the code "
            "from before; inserted=True is only for a call that was added beside these. Then resume the workflow."
        )


def opened(record: CallRecord) -> str:
    """Return what people call a recorded call, with the number of the event that opened it."""
    return f"{record.label} (event {record.sequence})"


def listed(names: Iterable[str]) -> str:
    """Return the names for a message, cut short."""
    every = list(names)
    more = len(every) - MOST_NAMED
    return ", ".join(every[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
