"""Internal errors of the engine, counted for each workflow.

An internal error evicts its workflow, and the loader loads it again from what
is committed. When the same happens once more before the workflow has made
progress, the workflow is paused without running its code. Closing lost
attempts and starting the next ones is no progress, because each load does
that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from mendflow.codec.problems import text_of
from mendflow.v1 import event_pb2, failure_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow_server.store.records import Loaded

__all__ = ["EngineFaults", "Faulted"]

#: How long to wait before a workflow is loaded again: at first and at most, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
#: From this count on the workflow is paused, and from this one on it is left alone, for pausing it failed as well.
PAUSED_FROM, LEFT_FROM = 2, 4

#: What a reload adds by itself, or what only informs.
_NO_PROGRESS = frozenset(
    ("workflow_recovered", "workflow_paused", "attempt_started", "progress_reported", "alert_raised")
)


class Faulted(NamedTuple):
    """The internal errors of one workflow since its newest progress."""

    times: int
    #: The latest, in words.
    error: str

    @property
    def pauses(self) -> bool:
        """Whether the workflow must be paused."""
        return self.times >= PAUSED_FROM

    @property
    def hopeless(self) -> bool:
        """Whether pausing it failed as well."""
        return self.times >= LEFT_FROM


NONE = Faulted(0, "")


class _Entry:
    __slots__ = ("count", "error", "loaded", "mark", "paused")

    def __init__(self) -> None:
        self.count = 0
        self.error = ""
        #: The sequence of the newest progress at the last load; None: not loaded since the first error.
        self.mark: int | None = None
        #: Whether it was loaded since the latest error.
        self.loaded = False
        #: Whether its pause is committed, and the count began anew.
        self.paused = False


class EngineFaults:
    """The internal errors of this process, by the workflow's key."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def add(self, key: int, error: BaseException) -> None:
        """Count an internal error."""
        entry = self._entries.setdefault(key, _Entry())
        entry.count += 1
        entry.error = f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")[:500]
        entry.loaded = False

    def pause(self, key: int) -> float:
        """Return how long to wait before the workflow is loaded again, in seconds."""
        entry = self._entries.get(key)
        times = 1 if entry is None else min(entry.count, 20)
        return min(FIRST_PAUSE * (1 << times), LONGEST_PAUSE)

    def judge(self, loaded: Loaded) -> Faulted:
        """Return the errors that a workflow is loaded again for; none when it is loaded for another reason."""
        key = loaded.row.key
        entry = self._entries.get(key)
        if entry is None or entry.loaded:
            return NONE
        entry.loaded = True
        mark = _newest_progress(loaded.events)
        if mark != entry.mark:
            entry.mark, entry.count, entry.paused = mark, 1, False
        if loaded.row.reason == event_pb2.STATE_REASON_ENGINE_FAULT:
            if not loaded.inbox:
                entry.count = 0  # It rests.
            elif not entry.paused:
                entry.count = 1  # Its newest message, such as a resume, gets another try.
            entry.paused = True
        return Faulted(entry.count, entry.error)

    def forget(self, key: int) -> None:
        """Forget a workflow that has ended."""
        self._entries.pop(key, None)


def _newest_progress(events: Iterable[bytes]) -> int:
    """Return the sequence of the newest event that a reload does not make by itself; 0: there is none."""
    newest = 0
    for data in events:
        try:
            event = event_pb2.Event.FromString(data)
        except DecodeError:
            continue  # It is reported where the history is read.
        lost = event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
        if not lost and event.WhichOneof("detail") not in _NO_PROGRESS:
            newest = event.sequence
    return newest
