"""The checker reports each broken promise by its name, and reports nothing else."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.v1 import event_pb2, failure_pb2, payload_pb2, workflow_pb2
from mendflow_server.store.records import InboxKind
from tests.support.evidence import Pressure
from tests.support.promises import (
    Answer,
    Death,
    Effect,
    Evidence,
    Health,
    Look,
    Promise,
    Reply,
    Row,
    Stored,
    Trouble,
    Watched,
    asked_for,
    broken,
    delays,
)

if TYPE_CHECKING:
    from collections.abc import Callable


#: When the killed server was started again.
RESTARTED = 1_800_000_000


def well() -> Evidence:
    """Return evidence without a fault: of a workflow with an interrupted step, a signal and a recovery."""
    output = payload_pb2.Payload(json="1")
    decision = failure_pb2.RetryDecision(
        action=failure_pb2.RETRY_ACTION_RETRY, reason=failure_pb2.RETRY_REASON_LOST, explanation="Interrupted."
    )
    decision.next_attempt_time.FromSeconds(RESTARTED)
    history = [
        event_pb2.Event(workflow_started=event_pb2.WorkflowStarted(uid="u", workflow_id="w")),
        event_pb2.Event(attempt_started=event_pb2.AttemptStarted(step_key="s", attempt=1, idempotency_key="k")),
        event_pb2.Event(workflow_recovered=event_pb2.WorkflowRecovered(generation=2)),
        event_pb2.Event(attempt_failed=event_pb2.AttemptFailed(step_key="s", attempt=1, decision=decision)),
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
        replies=[
            Reply("started", "w", "u"),
            Reply("signalled", "w", "r"),
            Reply("refused", "w", "late"),
            Reply("cancelled", "w", "c"),
            Reply("result", "w", end),
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
                replies=[Reply("started", "w", "u")],
                watched=[Watched("w", (), 0, history[:1])],
                heads={"w": 2},
                committed=True,
                time=RESTARTED - 1,
                up=RESTARTED,
            )
        ],
    )


def history(evidence: Evidence) -> list[event_pb2.Event]:
    return evidence.stored.histories["w"]


def at_death(evidence: Evidence, **other: Any) -> None:
    """Change what was left at the death."""
    evidence.deaths[0] = replace(evidence.deaths[0], **other)


def rewrite(evidence: Evidence, *events: event_pb2.Event) -> None:
    """Replace the history, also for the watchers that saw it."""
    mine = history(evidence)
    received = 0
    mine[:] = [copied(event) for event in events]
    for sequence, event in enumerate(mine, start=1):
        event.sequence = sequence
        received = sequence if event.HasField("signal_received") and not received else received
        if event.HasField("signal_taken"):
            event.signal_taken.signal_sequence = received
    row = evidence.stored.rows["w"]
    evidence.stored.rows["w"] = replace(row, last_sequence=len(mine))
    for reply in evidence.replies:
        if reply.kind == "result":
            reply.detail.last_sequence = len(mine)
    for watched in evidence.watched:
        watched.events[:] = asked_for(watched, mine)
    at_death(evidence, stored=Stored({"w": mine[:2]}, {"w": row}), watched=[Watched("w", (), 0, mine[:1])])


def copied(event: event_pb2.Event) -> event_pb2.Event:
    other = event_pb2.Event()
    other.CopyFrom(event)
    return other


def again(evidence: Evidence, index: int, before: int = -1) -> None:
    """Insert an event a second time, before the end or elsewhere."""
    events = list(history(evidence))
    events.insert(before, events[index])
    rewrite(evidence, *events)


def without(evidence: Evidence, index: int) -> None:
    """Leave out an event."""
    events = list(history(evidence))
    del events[index]
    rewrite(evidence, *events)


def late(evidence: Evidence, stalled: float) -> None:
    """Make the workflow continue three seconds late, of which the machine is to blame for ``stalled``."""
    at_death(evidence, up=RESTARTED - 3)
    vars(evidence).update(stalled=lambda *_: stalled)


def stop_at(evidence: Evidence, count: int, *, over: bool = True) -> None:
    """Leave out all events after the first ``count``."""
    vars(evidence).update(over=over)
    rewrite(evidence, *history(evidence)[:count])
    evidence.replies[:] = evidence.replies[:1]
    ran = {(event.attempt_started.step_key, event.attempt_started.attempt) for event in history(evidence)}
    evidence.effects[:] = [effect for effect in evidence.effects if (effect.step_key, effect.attempt) in ran]
    evidence.stored.rows["w"] = replace(evidence.stored.rows["w"], state=workflow_pb2.WORKFLOW_STATE_RUNNING)
    for watched in evidence.watched:
        watched.ended = False


def other_time(evidence: Evidence, index: int, seconds: float) -> event_pb2.Event:
    """Return a copy of an event with another time."""
    event = copied(history(evidence)[index])
    event.time.FromMicroseconds(round((RESTARTED + seconds) * 1e6))
    return event


def decide(evidence: Evidence, **values: Any) -> None:
    """Change the decision about the failed attempt."""
    decision = history(evidence)[3].attempt_failed.decision
    for name, value in values.items():
        setattr(decision, name, value)


def due_before(evidence: Evidence, seconds: float) -> None:
    """Make the second attempt begin ``seconds`` before it was due."""
    history(evidence)[3].attempt_failed.decision.next_attempt_time.FromMicroseconds(round((RESTARTED + seconds) * 1e6))


def waits(evidence: Evidence, begun: event_pb2.Event, over: event_pb2.Event, seconds: float) -> None:
    """Add a wait at the death. It was over ``seconds`` after the restart."""
    over.time.FromMicroseconds(round((RESTARTED + seconds) * 1e6))
    events = [event for event in history(evidence) if not event.HasField("cancel_requested")]
    evidence.replies[:] = [reply for reply in evidence.replies if reply.kind != "cancelled"]
    rewrite(evidence, events[0], begun, *events[1:-1], over, events[-1])
    mine = history(evidence)
    at_death(evidence, stored=Stored({"w": mine[:2]}, {}), effects=[], heads={})


def asleep(evidence: Evidence, *, due: float, woken: float) -> None:
    """Make the workflow sleep at the death."""
    timer = event_pb2.TimerStarted(key="sleep")
    timer.fire_time.FromMicroseconds(round((RESTARTED + due) * 1e6))
    fired = event_pb2.Event(timer_fired=event_pb2.TimerFired(key="sleep"))
    waits(evidence, event_pb2.Event(timer_started=timer), fired, woken)


def replied_before_crash(evidence: Evidence, *replies: Reply) -> None:
    at_death(evidence, replies=list(replies))


def look(evidence: Evidence, **other: Any) -> None:
    """Add a look while `w` waits for a slot, and `s` for a signal."""
    waiting = workflow_pb2.WORKFLOW_STATE_WAITING
    rows = {
        "w": Row("u", waiting, 1, 1, event_pb2.STATE_REASON_SLOT),
        "s": Row("v", waiting, 1, 1, event_pb2.STATE_REASON_SIGNAL),
    }
    running = {"r": history(evidence)[:2]}
    rows["r"] = Row("x", workflow_pb2.WORKFLOW_STATE_RUNNING, 1, 2)
    values: dict[str, Any] = {"time": RESTARTED, "stored": Stored(running, rows), "slots": 1, "workflows_in_memory": 2}
    evidence.looks.append(Look(**(values | other)))


def say(evidence: Evidence, *answers: Answer, end: float = 10.0) -> None:
    """Add these health answers. From second 5 on, no commit succeeds."""
    trouble = Trouble("no commit succeeds", 5.0, end, 1.0)
    evidence.health.append(Health(list(answers), [trouble], notices=0.5, recovers=1.0))


def said(at: float, *reasons: str) -> Answer:
    return Answer(at, at + 0.1, not reasons, reasons)


FAULTS: list[tuple[str, set[str], Callable[[Evidence], object]]] = [
    # The workflow that is lost had also run.
    ("lost", {"durable start", "output commit"}, lambda each: each.stored.rows.clear()),
    ("another one", {"durable start"}, lambda each: each.replies.append(Reply("started", "w", "other"))),
    ("no end", {"durable start"}, lambda each: stop_at(each, 9)),
    # Another driver has written after the first end.
    ("two ends", {"durable start", "one driver"}, lambda each: again(each, -1)),
    ("driven after its end", {"durable start", "one driver"}, lambda each: again(each, -1, 3)),
    ("lost signal", {"durable start"}, lambda each: each.replies.append(Reply("signalled", "w", "r2"))),
    ("signal twice", {"durable start"}, lambda each: again(each, 5)),
    ("taken twice", {"durable start"}, lambda each: again(each, 7)),
    ("cancel twice", {"durable start"}, lambda each: again(each, 8)),
    ("lost resume", {"durable start"}, lambda each: each.replies.append(Reply("resumed", "w", None))),
    ("lost termination", {"durable start"}, lambda each: each.replies.append(Reply("terminated", "w", None))),
    ("damaged", {"durable start"}, lambda each: vars(each).update(stored=replace(each.stored, damage=("page 3",)))),
    ("refused and done", {"clear refusal"}, lambda each: each.replies.append(Reply("refused", "w", "r"))),
    ("other result", {"output commit"}, lambda each: each.replies[4].detail.output.Clear()),
    ("other end", {"output commit"}, lambda each: each.replies.append(Reply("result", "w", workflow_pb2.Workflow()))),
    ("ran and is nowhere", {"output commit"}, lambda each: each.effects.append(Effect("x", "s", 1, "k"))),
    ("result twice", {"recorded once", "every attempt on record"}, lambda each: again(each, 6)),
    ("begun after its result", {"recorded once", "every attempt on record"}, lambda each: again(each, 4)),
    ("other key", {"recorded once"}, lambda each: each.effects.__setitem__(1, Effect("w", "s", 2, "other"))),
    (
        "written anew",
        {"recorded once"},
        lambda each: at_death(each, stored=Stored({"w": [history(each)[0], other_time(each, 1, -5)]})),
    ),
    ("not on record", {"every attempt on record"}, lambda each: each.effects.append(Effect("w", "s", 3, "k"))),
    ("ran twice", {"every attempt on record"}, lambda each: each.effects.append(each.effects[0])),
    ("never closed", {"every attempt on record"}, lambda each: without(each, 6)),
    ("attempt missing", {"every attempt on record"}, lambda each: without(each, 4)),
    ("no decision", {"every attempt on record"}, lambda each: decide(each, action=0)),
    ("no reason", {"every attempt on record"}, lambda each: decide(each, reason=0)),
    ("not in words", {"every attempt on record"}, lambda each: decide(each, explanation="")),
    (
        "decided otherwise",
        {"every attempt on record"},
        lambda each: decide(
            each, action=failure_pb2.RETRY_ACTION_FAIL_STEP, reason=failure_pb2.RETRY_REASON_NOT_RETRYABLE
        ),
    ),
    (
        "no operator resumed it",
        {"every attempt on record"},
        lambda each: decide(
            each, action=failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW, reason=failure_pb2.RETRY_REASON_MAX_ATTEMPTS
        ),
    ),
    ("before its time", {"every attempt on record"}, lambda each: due_before(each, 0.5)),
    ("same driver again", {"one driver"}, lambda each: again(each, 2)),
    # The watcher that saw the first of the two saw an event that is not stored.
    (
        "written over",
        {"one driver", "faithful watch"},
        lambda each: history(each).__setitem__(4, other_time(each, 4, 0.1)),
    ),
    ("hole in the history", {"faithful watch"}, lambda each: history(each).pop(2)),
    ("dropped", {"faithful watch"}, lambda each: each.watched[0].events.pop(3)),
    ("repeated", {"faithful watch"}, lambda each: each.watched[1].events.insert(0, each.watched[1].events[0])),
    ("not asked for", {"faithful watch"}, lambda each: each.watched[2].events.append(history(each)[9])),
    ("no end of the watch", {"faithful watch"}, lambda each: setattr(each.watched[0], "ended", False)),
    (
        "started, not stored",
        {"output commit"},
        lambda each: at_death(each, stored=Stored(), effects=[], watched=[], heads={}),
    ),
    (
        "started another, not stored",
        {"output commit"},
        lambda each: replied_before_crash(each, Reply("started", "w", "v")),
    ),
    (
        "signalled, not stored",
        {"output commit"},
        lambda each: replied_before_crash(each, Reply("signalled", "w", "r")),
    ),
    (
        "cancelled, not stored",
        {"output commit"},
        lambda each: replied_before_crash(each, Reply("cancelled", "w", "c")),
    ),
    ("ended, not stored", {"output commit"}, lambda each: replied_before_crash(each, each.replies[4])),
    ("ran, not stored", {"output commit"}, lambda each: at_death(each, effects=[Effect("w", "s", 2, "k")])),
    (
        "seen, not stored",
        {"output commit"},
        lambda each: at_death(each, watched=[Watched("w", (), 5, history(each)[5:6])]),
    ),
    ("gone before the commit", {"output commit"}, lambda each: at_death(each, committed=False)),
    ("gone after the commit", {"output commit"}, lambda each: at_death(each, heads={"w": 3})),
    ("slow to recover", {"recovery by default"}, lambda each: at_death(each, up=RESTARTED - 10)),
    # Neither the workflow nor its attempt has an end.
    (
        "never recovered",
        {"recovery by default", "durable start", "every attempt on record"},
        lambda each: stop_at(each, 2),
    ),
    ("slept too long", {"recovery by default"}, lambda each: asleep(each, due=-5.0, woken=2.5)),
    ("slept on", {"recovery by default"}, lambda each: asleep(each, due=3.0, woken=5.5)),
    ("slot kept", {"waiting is free"}, lambda each: look(each, slots=2)),
    ("memory kept", {"waiting is free"}, lambda each: look(each, workflows_in_memory=3)),
    ("serving in trouble", {"honest health"}, lambda each: say(each, said(7.0), said(8.0, "no disk"))),
    ("trouble not reported", {"honest health"}, lambda each: say(each, said(4.0), said(12.0))),
    ("not serving, all is well", {"honest health"}, lambda each: say(each, said(2.0, "a mood"), said(8.0, "no disk"))),
    ("not serving, forever", {"honest health"}, lambda each: say(each, said(8.0, "no disk"), said(12.0, "no disk"))),
    (
        "not serving, and no reason",
        {"honest health"},
        lambda each: say(each, Answer(8.0, 8.1, serving=False, reasons=())),
    ),
]

#: Changes that come close to a fault but are none.
HARMLESS: list[tuple[str, Callable[[Evidence], object]]] = [
    ("nothing", lambda _: None),
    (
        "signal on its way",
        lambda each: at_death(
            each,
            stored=replace(each.deaths[0].stored, inbox={"w": [(InboxKind.SIGNAL, "r")]}),
            replies=[Reply("signalled", "w", "r")],
        ),
    ),
    ("dropped frame at the death", lambda each: at_death(each, watched=[Watched("w", (), 0, history(each)[1:2])])),
    ("woken in time", lambda each: asleep(each, due=-5.0, woken=1.5)),
    ("not due for long", lambda each: asleep(each, due=60.0, woken=60.5)),
    ("late by the machine", lambda each: late(each, 2.5)),
    ("after its time", lambda each: due_before(each, -0.5)),
    ("not over", lambda each: stop_at(each, 2, over=False)),
    ("slot taken", look),
    ("just begun", lambda each: say(each, said(5.5), said(6.0), said(8.0, "no disk"), said(10.8, "no disk"))),
    ("soon over", lambda each: say(each, said(5.5), said(6.5), end=6.3)),
]


@pytest.mark.parametrize(("promises", "put_in"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_reported_by_its_promise(promises: set[str], put_in: Callable[[Evidence], object]) -> None:
    evidence = well()
    put_in(evidence)
    assert {breach.promise.value for breach in broken(evidence)} == promises


@pytest.mark.parametrize("change", [each[1] for each in HARMLESS], ids=[each[0] for each in HARMLESS])
def test_change_that_is_no_fault_is_not_reported(change: Callable[[Evidence], object]) -> None:
    evidence = well()
    change(evidence)
    assert broken(evidence) == []


def test_delays_of_due_work_are_the_recorded_ones() -> None:
    evidence = well()
    asleep(evidence, due=-5.0, woken=0.25)
    assert delays(evidence) == [0.25]


def test_each_promise_has_a_fault_that_is_its_own() -> None:
    alone = {next(iter(promises)) for _, promises, _ in FAULTS if len(promises) == 1}
    assert alone == {promise.value for promise in Promise}


def test_pressure_between_two_moments_is_at_most_their_distance() -> None:
    pressure = Pressure()
    began = time.time()
    while time.time() < began + 0.02:
        pressure.look()
    ended = time.time()
    assert 0.0 <= pressure.between(began, ended) <= ended - began
    assert pressure.between(began, began) == pressure.between(ended + 1, ended + 2) == 0.0
