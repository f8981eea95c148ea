"""The uncommitted part of a workflow: messages that arrive before its final event."""

from __future__ import annotations

from mendflow.v1 import event_pb2
from mendflow_server.execution.unit_of_work import UnitOfWork
from mendflow_server.history.builder import HistoryBuilder
from mendflow_server.history.state import History
from mendflow_server.history.workflow_status import derive_status
from mendflow_server.store.records import Change, InboxKind, Message
from tests.store.builders import make_row


def ended() -> tuple[UnitOfWork, Change]:
    """Return a workflow that has just ended, and its final change."""
    builder = HistoryBuilder(History())
    unit = UnitOfWork(make_row("order"), None, builder)
    for fill in ("workflow_started", "workflow_succeeded"):
        event = builder.new()
        getattr(event, fill).SetInParent()
        builder.add(event)
    return unit, unit.seal(derive_status(builder.history, busy=False, slot_waits=0))


def cancel(number: int) -> Message:
    """Return a cancel in the inbox."""
    content = event_pb2.CancelRequested(actor="someone", request_id=f"r{number}")
    return Message(number, "order", InboxKind.CANCEL, f"r{number}", 0, content.SerializeToString())


def kinds(change: Change) -> list[str]:
    """Return the kinds of a change's events."""
    return [event_pb2.Event.FromString(data).WhichOneof("detail") or "" for _, data in change.events]


def test_late_cancels_that_come_one_after_the_other_make_one_event() -> None:
    unit, change = ended()
    for number in (1, 2):
        sealed = unit.settle(None)
        unit.add_late_messages(change, sealed, [cancel(each) for each in range(1, number + 1)])
        unit.hold(sealed)
    assert kinds(change) == ["workflow_started", "cancel_requested", "workflow_succeeded"]
    assert change.consumed == (1, 2)
    assert [sequence for sequence, _ in change.events] == [1, 2, 3]
    assert change.row.last_sequence == 3


def test_a_hold_that_meets_a_commit_in_flight_is_kept() -> None:
    unit, change = ended()
    unit.row.held = True
    unit.settle(change)
    assert unit.row.held
