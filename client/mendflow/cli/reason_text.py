"""The reason for a workflow's state in words. `list` and `show` use the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mendflow.cli.event_text import clean, words_of
from mendflow.cli.times import due_text
from mendflow.v1 import event_pb2, workflow_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["reason_text"]

#: What a workflow waits for, before the server's explanation.
_WAITS: Final[Mapping[int, str]] = {
    event_pb2.STATE_REASON_TIMER: "sleeps",
    event_pb2.STATE_REASON_SIGNAL: "waits for signal",
    event_pb2.STATE_REASON_BACKOFF: "backs off",
    event_pb2.STATE_REASON_SLOT: "waits for a slot",
    event_pb2.STATE_REASON_NOT_SERVED: "not served",
    event_pb2.STATE_REASON_SUSPECTED: "suspected",
    event_pb2.STATE_REASON_THREAD: "waits for code",
}
#: The reasons with a time at which the wait is over. The time of another wait may be that of another call.
_TIMED: Final = frozenset({event_pb2.STATE_REASON_TIMER, event_pb2.STATE_REASON_SIGNAL, event_pb2.STATE_REASON_BACKOFF})
#: The beginning of the server's explanations for SLOT and THREAD, which the words here replace.
_SLOT_WAITS: Final = "attempts waiting for a slot: "
_CODE_RUNS: Final = "hung code of "
#: The states whose name is the beginning of the reason.
_STOPPED: Final[Mapping[int, str]] = {
    workflow_pb2.WORKFLOW_STATE_PAUSED: "paused",
    workflow_pb2.WORKFLOW_STATE_QUARANTINED: "quarantined",
}
#: The reasons that need no explanation.
_PLAIN: Final[Mapping[int, str]] = {
    event_pb2.STATE_REASON_HISTORY_LIMIT: "the history reached its limit",
    event_pb2.STATE_REASON_CLEANUP_DEADLINE: "clean-up was interrupted at its deadline",
}


def reason_text(workflow: workflow_pb2.Workflow, now: float) -> str:
    """Return why a workflow has its state, in one line; empty if the state says it all.

    ``now`` is the time in seconds since the epoch, from which the text counts the time that is left.
    """
    why = clean(workflow.explanation)
    if workflow.state in _STOPPED:
        why = why or words_of(event_pb2.StateReason, "STATE_REASON_", workflow.reason) if workflow.reason else why
        return _joined(_STOPPED[workflow.state], why)
    if workflow.state == workflow_pb2.WORKFLOW_STATE_CANCELLING:
        return _joined("cleans up", why)
    if workflow.reason in _PLAIN:
        return _joined(_PLAIN[workflow.reason], why)
    if not workflow.reason:
        return why
    left = ""
    if workflow.reason in _TIMED and workflow.HasField("wake_time"):
        left = due_text(workflow.wake_time, now)
    return _wait_text(workflow.reason, why, left)


def _wait_text(reason: int, why: str, left: str) -> str:
    if reason == event_pb2.STATE_REASON_SIGNAL:
        limit = {"": "", "now": ", times out now"}.get(left, f", times out {left}")
        return f"waits for signal {why}{limit}".rstrip()
    if reason == event_pb2.STATE_REASON_SLOT and why.startswith(_SLOT_WAITS):
        count = why.removeprefix(_SLOT_WAITS)
        return "waits for a slot" if count == "1" else f"waits for a slot: {count} attempts"
    if reason == event_pb2.STATE_REASON_THREAD and why.startswith(_CODE_RUNS):
        return f"waits for the code of {why.removeprefix(_CODE_RUNS)} to end"
    begin = _WAITS.get(reason) or words_of(event_pb2.StateReason, "STATE_REASON_", reason)
    text = _joined(begin, why)
    return f"{text}, {left}" if left else text


def _joined(begin: str, why: str) -> str:
    return f"{begin}: {why}" if why else begin
