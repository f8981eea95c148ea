"""The judge of many workflows reports each breach by its promise's name, and nothing of what is well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import event_pb2, payload_pb2, workflow_pb2
from tests.crash.kept import Effect, Evidence, Row, broken
from tests.crash.load import Told, Watched

if TYPE_CHECKING:
    from collections.abc import Callable


def well() -> Evidence:
    """A workflow with a step that was cut off once, a signal and a recovery; all as it should be."""
    output = payload_pb2.Payload(json="1")
    history = [
        event_pb2.Event(workflow_started=event_pb2.WorkflowStarted(uid="u", workflow_id="w")),
        event_pb2.Event(attempt_started=event_pb2.AttemptStarted(step_key="s", attempt=1, idempotency_key="k")),
        event_pb2.Event(workflow_recovered=event_pb2.WorkflowRecovered(generation=2)),
        event_pb2.Event(attempt_failed=event_pb2.AttemptFailed(step_key="s", attempt=1)),
        event_pb2.Event(attempt_started=event_pb2.AttemptStarted(step_key="s", attempt=2)),
        event_pb2.Event(signal_received=event_pb2.SignalReceived(name="go", request_id="r")),
        event_pb2.Event(attempt_succeeded=event_pb2.AttemptSucceeded(step_key="s", attempt=2)),
        event_pb2.Event(signal_taken=event_pb2.SignalTaken(key="go", signal_sequence=6)),
        event_pb2.Event(cancel_requested=event_pb2.CancelRequested(request_id="c")),
        event_pb2.Event(workflow_succeeded=event_pb2.WorkflowSucceeded(output=output)),
    ]
    for sequence, event in enumerate(history, start=1):
        event.sequence = sequence
    end = workflow_pb2.Workflow(
        workflow_id="w", state=workflow_pb2.WORKFLOW_STATE_SUCCEEDED, output=output, last_sequence=10
    )
    taken = (event_pb2.EVENT_KIND_SIGNAL_TAKEN,)
    return Evidence(
        histories={"w": history},
        rows={"w": Row("u", workflow_pb2.WORKFLOW_STATE_SUCCEEDED, 2, 10)},
        effects=[Effect("w", "s", 1, "k"), Effect("w", "s", 2, "k")],
        told=[
            Told("started", "w", "u"),
            Told("signalled", "w", "r"),
            Told("refused", "w", "late"),
            Told("cancelled", "w", "c"),
            Told("result", "w", end),
        ],
        watched=[
            Watched("w", (), 0, list(history), ended=True),
            Watched("w", (), 4, history[4:], ended=True),
            Watched("w", taken, 0, [history[7]], ended=True),
        ],
    )


def test_what_is_well_is_not_reported() -> None:
    assert broken(well()) == []


def told(evidence: Evidence) -> list[Told]:
    assert isinstance(evidence.told, list)
    return evidence.told


def again(evidence: Evidence, index: int) -> None:
    """Record an event a second time, before the end."""
    history = evidence.histories["w"]
    history.insert(-1, history[index])


FAULTS: list[tuple[str, str, Callable[[Evidence], object]]] = [
    ("lost", "durable start", lambda each: each.rows.clear()),
    ("another one", "durable start", lambda each: told(each).append(Told("started", "w", "other"))),
    ("no end", "durable start", lambda each: each.histories["w"].pop()),
    ("two ends", "durable start", lambda each: again(each, -1)),
    ("lost signal", "durable start", lambda each: told(each).append(Told("signalled", "w", "r2"))),
    ("signal twice", "durable start", lambda each: again(each, 5)),
    ("taken twice", "durable start", lambda each: again(each, 7)),
    ("cancel twice", "durable start", lambda each: again(each, 8)),
    ("refused and done", "clear refusal", lambda each: told(each).append(Told("refused", "w", "r"))),
    ("other result", "output commit", lambda each: told(each)[4].detail.output.Clear()),
    ("other end", "output commit", lambda each: told(each).append(Told("result", "w", workflow_pb2.Workflow()))),
    ("ran and is nowhere", "output commit", lambda each: each.effects.append(Effect("x", "s", 1, "k"))),
    ("result twice", "recorded once", lambda each: again(each, 6)),
    ("begun after its result", "recorded once", lambda each: again(each, 4)),
    ("other key", "recorded once", lambda each: each.effects.__setitem__(1, Effect("w", "s", 2, "other"))),
    ("not on record", "every attempt on record", lambda each: each.effects.append(Effect("w", "s", 3, "k"))),
    ("ran twice", "every attempt on record", lambda each: each.effects.append(each.effects[0])),
    ("never closed", "every attempt on record", lambda each: each.histories["w"].pop(6)),
    ("attempt missing", "every attempt on record", lambda each: each.histories["w"].pop(4)),
    ("same driver again", "one driver", lambda each: again(each, 2)),
    ("hole in the history", "faithful watch", lambda each: each.histories["w"].pop(8)),
    ("dropped", "faithful watch", lambda each: each.watched[0].events.pop(3)),
    ("repeated", "faithful watch", lambda each: each.watched[1].events.insert(0, each.watched[1].events[0])),
    ("not asked for", "faithful watch", lambda each: each.watched[2].events.append(each.histories["w"][9])),
    ("no end of the watch", "faithful watch", lambda each: setattr(each.watched[0], "ended", False)),
]


@pytest.mark.parametrize(("promise", "put_in"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_reported_by_its_promise(promise: str, put_in: Callable[[Evidence], object]) -> None:
    evidence = well()
    put_in(evidence)
    assert any(f" {promise}: " in breach for breach in broken(evidence)), broken(evidence)
