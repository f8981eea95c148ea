"""Detect code that no longer makes the recorded calls.

The rule. A recorded call is *unclaimed* until the code awaits a call with its
key; recorded values do not count. If calls are unclaimed at the end of a drive
and the code has awaited nothing new, the code may still claim them later. Once
it has awaited a call that is neither recorded nor marked as inserted, or has
ended, it is not the code that made the history. An insertion and a replacement
look the same here, so an inserted call needs a mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.authoring.unawaited import listed
from mendflow.codec import same_payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mendflow.authoring.step import Step
    from mendflow.v1.payload_pb2 import Payload
    from mendflow_server.history.state import CallRecord

__all__ = ["Claims", "opened"]


class Claims:
    """The recorded calls that the code has not made, and the unrecorded calls that it made before them."""

    __slots__ = ("_new", "inserted", "unclaimed")

    def __init__(self, calls: Mapping[str, CallRecord]) -> None:
        #: The unclaimed calls by key, in the order of their events.
        self.unclaimed = {key: record for key, record in calls.items() if record.kind != "value"}
        #: The calls that the code made and that are neither recorded nor marked as inserted.
        self._new: list[str] = []
        #: The calls that the code made and that are not recorded, but marked as inserted.
        self.inserted: list[str] = []

    @property
    def labels(self) -> list[str]:
        """The unclaimed calls, each with the number of its event."""
        return [opened(record) for record in self.unclaimed.values()]

    def claim(self, record: CallRecord | None, label: str, *, inserted: bool) -> None:
        """Record a call that the code makes. ``record`` is its record in the history, if it has one."""
        if record is not None:
            self.unclaimed.pop(record.key, None)
        elif inserted:
            self.inserted.append(label)
        else:
            self._new.append(label)

    def claim_step(self, record: CallRecord | None, key: str, step: Step[..., Any], payload: Payload) -> None:
        """Record a step that the code calls. A step marked as inserted that may be a recorded one counts as new."""
        twin = self._twin(step, payload) if record is None and step.inserted else None
        hint = "" if twin is None else f" (marked as inserted, but it may be the recorded {twin.label})"
        self.claim(record, f"step {key}{hint}", inserted=step.inserted and twin is None)

    def _twin(self, step: Step[..., Any], payload: Payload) -> CallRecord | None:
        """Return an unclaimed record of the same step with the same input: the marked call may have been moved."""
        for record in self.unclaimed.values():
            if record.kind == "step" and record.name == step.name and same_payload(record.input, payload):
                return record
        return None

    def problem(self, *, done: bool, error: BaseException | None) -> str:
        """Return why the code does not fit the history at the end of a drive; empty if it may.

        ``done`` says that the code has ended, with ``error`` if it raised one.
        """
        if not self.unclaimed or not (done or self._new):
            return ""
        if self._new:
            did = f"called {listed(self._new)}, which is not recorded,"
        elif error is None:
            did = "returned"
        else:
            did = f"raised {type(error).__name__}"
        count = "a call" if len(self.unclaimed) == 1 else f"{len(self.unclaimed)} calls"
        return (
            f"workflow {did} before awaiting {count} recorded in its history: {listed(self.labels)}. Nothing new was "
            "started. If a step was renamed, keep its recorded name with @step(name=...); otherwise deploy the "
            "previous code. Use inserted=True only for a call that was added to the recorded ones. Then resume "
            "the workflow."
        )


def opened(record: CallRecord) -> str:
    """Return the label of a recorded call, with the number of the event that opened it."""
    return f"{record.label} (event {record.sequence})"
