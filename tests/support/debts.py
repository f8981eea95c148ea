"""A server's debts to a workflow, by what is stored, and since when they are due. The checker uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mendflow.v1 import failure_pb2
from mendflow_server.history.state import FINAL_DETAILS
from mendflow_server.store.records import InboxKind
from tests.support.evidence import open_attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mendflow.v1 import event_pb2
    from tests.support.evidence import History, Stored

#: The events after which a workflow stops, and the one after which it continues.
STOPS: Final = frozenset({"workflow_paused", "workflow_quarantined"})
RESUMED: Final = "workflow_resumed"


@dataclass(frozen=True)
class Debt:
    """Something that is due. ``key`` names the call that waits for it, and is empty if no call does."""

    what: str
    key: str
    due: float
    #: Returns whether an event pays the debt.
    done: Callable[[event_pb2.Event], bool]

    def __str__(self) -> str:
        return f"{self.what} {self.key}".rstrip()


def owed(stored: Stored, workflow_id: str, up: float) -> Iterator[Debt]:
    """Yield what a server that is up from ``up`` on owes a workflow."""
    history = stored.histories.get(workflow_id, [])
    if not history or history[-1].WhichOneof("detail") in FINAL_DETAILS or _stands(history):
        return
    waits = _waits(history, up)
    debts = [*_owed_attempts(history, up), *(debt for debt in waits.values() if debt is not None)]
    for kind, request_id in stored.inbox.get(workflow_id, ()):
        if kind == InboxKind.SIGNAL:
            debts.append(Debt(f"signal {request_id}", "", up, _has_received(request_id)))
        elif kind == InboxKind.CANCEL and not any(event.HasField("cancel_requested") for event in history):
            debts.append(Debt("the cancel", "", up, lambda event: event.HasField("cancel_requested")))
    if not debts and not waits and not _suspected(history):
        debts.append(Debt("its code", "", up, lambda _: True))
    yield from debts


def _stands(history: History) -> bool:
    """Return whether the workflow is paused or quarantined."""
    stops = [name for event in history if (name := event.WhichOneof("detail") or "") in STOPS or name == RESUMED]
    return bool(stops) and stops[-1] in STOPS


def _suspected(history: History) -> bool:
    """Return whether a step is held back as a possible cause of the server's crashes."""
    suspected: set[str] = set()
    for event in history:
        suspected.discard(event.attempt_started.step_key)
        if event.attempt_failed.decision.reason == failure_pb2.RETRY_REASON_SUSPECTED:
            suspected.add(event.attempt_failed.step_key)
    return bool(suspected)


def _owed_attempts(history: History, up: float) -> Iterator[Debt]:
    """An interrupted attempt gets its end; a step in back-off is tried again when it is due."""
    for started in open_attempts(history):
        yield Debt("interrupted:", started.step_key, up, _has_failed(started.step_key))
    backing_off: dict[str, float] = {}
    for event in history:
        decision = event.attempt_failed.decision
        if decision.HasField("next_attempt_time"):
            backing_off[event.attempt_failed.step_key] = decision.next_attempt_time.ToMicroseconds() / 1e6
        for key in (event.attempt_started.step_key, event.call_cancelled.key):
            backing_off.pop(key, None)
    for key, due in backing_off.items():
        yield Debt("backing off:", key, max(due, up), _has_started(key))


def _waits(history: History, up: float) -> dict[str, Debt | None]:
    """Return by key the calls that sleep or wait for a signal. For a wait without a deadline the debt is None."""
    waits: dict[str, Debt | None] = {}
    for event in history:
        if event.HasField("timer_started"):
            key, due = event.timer_started.key, event.timer_started.fire_time.ToMicroseconds() / 1e6
            waits[key] = Debt("asleep:", key, max(due, up), _has_woken(key))
        elif event.HasField("signal_awaited"):
            key, due = event.signal_awaited.key, event.signal_awaited.deadline.ToMicroseconds() / 1e6
            limited = event.signal_awaited.HasField("deadline")
            waits[key] = Debt("waiting:", key, max(due, up), _has_woken(key)) if limited else None
        for detail in (event.timer_fired, event.signal_taken, event.signal_timed_out, event.call_cancelled):
            waits.pop(detail.key, None)
    return waits


def _has_received(request_id: str) -> Callable[[event_pb2.Event], bool]:
    return lambda event: event.signal_received.request_id == request_id


def _has_failed(step_key: str) -> Callable[[event_pb2.Event], bool]:
    return lambda event: event.attempt_failed.step_key == step_key


def _has_started(step_key: str) -> Callable[[event_pb2.Event], bool]:
    return lambda event: event.attempt_started.step_key == step_key


def _has_woken(key: str) -> Callable[[event_pb2.Event], bool]:
    return lambda event: key in {event.timer_fired.key, event.signal_taken.key, event.signal_timed_out.key}
