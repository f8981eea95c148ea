"""The checker reports each breach by its promise's name, and nothing of what is well."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.v1 import event_pb2, payload_pb2, workflow_pb2
from tests.promises import Death, Effect, Evidence, Promise, Row, Stored, Told, Watched, broken

if TYPE_CHECKING:
    from collections.abc import Callable


#: When the killed server was started again.
RESTARTED = 1_800_000_000


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
        event.time.FromSeconds(RESTARTED)
    end = workflow_pb2.Workflow(
        workflow_id="w", state=workflow_pb2.WORKFLOW_STATE_SUCCEEDED, output=output, last_sequence=10
    )
    taken = (event_pb2.EVENT_KIND_SIGNAL_TAKEN,)
    row = Row("u", workflow_pb2.WORKFLOW_STATE_SUCCEEDED, 2, 10)
    return Evidence(
        stored=Stored({"w": history}, {"w": row}),
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
        deaths=[
            Death(
                stored=Stored({"w": history[:2]}, {"w": row}),
                effects=[Effect("w", "s", 1, "k")],
                told=[Told("started", "w", "u")],
                watched=[Watched("w", (), 0, history[:1])],
                heads={"w": 2},
                committed=True,
                restarted=RESTARTED,
            )
        ],
    )


def test_what_is_well_is_not_reported() -> None:
    assert broken(well()) == []


def history(evidence: Evidence) -> list[event_pb2.Event]:
    return evidence.stored.histories["w"]


def at_death(evidence: Evidence, **other: Any) -> None:
    """Let something else be left at the death."""
    evidence.deaths[0] = replace(evidence.deaths[0], **other)


def stop_there(evidence: Evidence) -> None:
    """Let nothing come after the death."""
    del history(evidence)[2:]


def again(evidence: Evidence, index: int) -> None:
    """Record an event a second time, before the end."""
    history(evidence).insert(-1, history(evidence)[index])


FAULTS: list[tuple[str, str, Callable[[Evidence], object]]] = [
    ("lost", "durable start", lambda each: each.stored.rows.clear()),
    ("another one", "durable start", lambda each: each.told.append(Told("started", "w", "other"))),
    ("no end", "durable start", lambda each: history(each).pop()),
    ("two ends", "durable start", lambda each: again(each, -1)),
    ("lost signal", "durable start", lambda each: each.told.append(Told("signalled", "w", "r2"))),
    ("signal twice", "durable start", lambda each: again(each, 5)),
    ("taken twice", "durable start", lambda each: again(each, 7)),
    ("cancel twice", "durable start", lambda each: again(each, 8)),
    ("refused and done", "clear refusal", lambda each: each.told.append(Told("refused", "w", "r"))),
    ("other result", "output commit", lambda each: each.told[4].detail.output.Clear()),
    ("other end", "output commit", lambda each: each.told.append(Told("result", "w", workflow_pb2.Workflow()))),
    ("ran and is nowhere", "output commit", lambda each: each.effects.append(Effect("x", "s", 1, "k"))),
    ("result twice", "recorded once", lambda each: again(each, 6)),
    ("begun after its result", "recorded once", lambda each: again(each, 4)),
    ("other key", "recorded once", lambda each: each.effects.__setitem__(1, Effect("w", "s", 2, "other"))),
    ("not on record", "every attempt on record", lambda each: each.effects.append(Effect("w", "s", 3, "k"))),
    ("ran twice", "every attempt on record", lambda each: each.effects.append(each.effects[0])),
    ("never closed", "every attempt on record", lambda each: history(each).pop(6)),
    ("attempt missing", "every attempt on record", lambda each: history(each).pop(4)),
    ("same driver again", "one driver", lambda each: again(each, 2)),
    ("driven after its end", "one driver", lambda each: history(each).insert(3, history(each)[-1])),
    ("written over", "one driver", lambda each: history(each).__setitem__(4, event_pb2.Event(sequence=5))),
    ("hole in the history", "faithful watch", lambda each: history(each).pop(8)),
    ("dropped", "faithful watch", lambda each: each.watched[0].events.pop(3)),
    ("repeated", "faithful watch", lambda each: each.watched[1].events.insert(0, each.watched[1].events[0])),
    ("not asked for", "faithful watch", lambda each: each.watched[2].events.append(history(each)[9])),
    ("damaged", "durable start", lambda each: vars(each).update(stored=replace(each.stored, damage=("page 3",)))),
    ("told before it was on disk", "output commit", lambda each: at_death(each, stored=Stored())),
    ("ran before it was on disk", "output commit", lambda each: at_death(each, effects=[Effect("w", "s", 2, "k")])),
    (
        "seen before it was on disk",
        "output commit",
        lambda each: at_death(each, watched=[Watched("w", (), 5, history(each)[5:6])]),
    ),
    ("gone before the commit", "output commit", lambda each: at_death(each, committed=False)),
    ("gone after the commit", "output commit", lambda each: at_death(each, heads={"w": 3})),
    ("written anew", "recorded once", lambda each: at_death(each, stored=Stored({"w": history(each)[1:3]}))),
    ("slow to recover", "recovery by default", lambda each: at_death(each, restarted=RESTARTED - 10)),
    ("never recovered", "recovery by default", stop_there),
    ("no end of the watch", "faithful watch", lambda each: setattr(each.watched[0], "ended", False)),
]


@pytest.mark.parametrize(("promise", "put_in"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_reported_by_its_promise(promise: str, put_in: Callable[[Evidence], object]) -> None:
    evidence = well()
    put_in(evidence)
    assert Promise(promise) in {breach.promise for breach in broken(evidence)}
