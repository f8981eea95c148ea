"""What is wrong with a trial, judged from outside by the promises' names."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from mendflow.v1 import workflow_pb2
from mendflow_server.history import FINAL_DETAILS
from mendflow_server.watch import kind_of
from tests.crash.trial import SUBJECT, history_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mendflow.v1 import event_pb2
    from tests.crash.trial import Death, Trial

#: How soon after its restart a server must go on with what was cut off, in seconds: one, but the machine is busy.
SOON = 3.0


def faults(trial: Trial) -> list[str]:
    """Answer what is wrong with a trial."""
    if trial.failure:
        return [trial.failure]
    history = history_in(trial.store)
    found = [*_durable_start(trial, history), *_recorded_once(history), *_on_record(trial, history)]
    found += [*_faithful_watch(trial, history), *_acknowledged(trial, history)]
    for number, death in enumerate(trial.deaths, start=1):
        found += [f"death {number}: {fault}" for fault in (*_committed(death, history), *_output_commit(death))]
    found += [f"recovery by default: it went on {pause:.2f} s after" for pause in pauses(trial) if pause > SOON]
    return found + trial.case.check(trial)


def _durable_start(trial: Trial, history: list[event_pb2.Event]) -> Iterator[str]:
    """One workflow, under the uid that the caller was told, in the final state that the caller was told."""
    uids = {told.detail for told in trial.told if told.kind == "started"}
    if uids != {history[0].workflow_started.uid}:
        yield f"durable start: the caller was told of {uids}, the store has {history[0].workflow_started.uid}"
    ends = [event for event in history if event.WhichOneof("detail") in FINAL_DETAILS]
    if ends != history[-1:]:
        yield f"durable start: the history has {len(ends)} ends"
    elif FINAL_DETAILS[ends[0].WhichOneof("detail") or ""] != trial.final.state:
        yield f"durable start: the caller was told {workflow_pb2.WorkflowState.Name(trial.final.state)}"


def _recorded_once(history: Iterable[event_pb2.Event]) -> Iterator[str]:
    """After a result there is neither an attempt nor another result of the step."""
    done: set[str] = set()
    for event in history:
        for detail in (event.attempt_started, event.attempt_succeeded):
            if detail.step_key in done:
                yield f"recorded once: event {event.sequence} is of {detail.step_key}, which had its result"
        if event.HasField("attempt_succeeded"):
            done.add(event.attempt_succeeded.step_key)


def _on_record(trial: Trial, history: list[event_pb2.Event]) -> Iterator[str]:
    """Each execution is an attempt on record, executed once, under its step's one idempotency key."""
    begun = attempts(history)
    keys = {started.step_key: started.idempotency_key for started in begun.values() if started.idempotency_key}
    for effect, times in collections.Counter(trial.effects).items():
        if (effect.step_key, effect.attempt) not in begun:
            yield f"every attempt on record: {effect} is not"
        elif times > 1:
            yield f"every attempt on record: {effect} ran {times} times"
        elif effect.idempotency_key != keys[effect.step_key]:
            yield f"recorded once: {effect} ran under another key than {keys[effect.step_key]}"
    if left := open_attempts(history):
        yield f"every attempt on record: {[each.step_key for each in left]} have no end"
    for step_key in keys:
        numbers = sorted(number for key, number in begun if key == step_key)
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"every attempt on record: {step_key} has the attempts {numbers}"


def _faithful_watch(trial: Trial, history: list[event_pb2.Event]) -> Iterator[str]:
    """Each watcher saw what it asked for, each event once, in order."""
    if [event.sequence for event in history] != list(range(1, len(history) + 1)):
        yield f"faithful watch: the history's sequences are {[event.sequence for event in history]}"
    for watched in trial.watched:
        wanted = [event for event in history if not watched.kinds or kind_of(event) in watched.kinds]
        if watched.events != wanted:
            seen = [event.sequence for event in watched.events]
            yield f"faithful watch: the watch of kinds {watched.kinds} saw {seen} of {len(history)} events"


def _acknowledged(trial: Trial, history: list[event_pb2.Event]) -> Iterator[str]:
    """Each signal and cancel that was acknowledged is in the history, once."""
    signals = collections.Counter(event.signal_received.request_id for event in history)
    for told in trial.told:
        if told.kind == "signalled" and signals[told.detail] != 1:
            yield f"durable start: signal {told.detail} is {signals[told.detail]} times in the history"
    cancels = sum(event.HasField("cancel_requested") for event in history)
    if cancels != any(told.kind == "cancelled" for told in trial.told):
        yield f"durable start: {cancels} cancels are in the history"


def _committed(death: Death, history: list[event_pb2.Event]) -> Iterator[str]:
    """What was on disk is how the history begins; and what was killed before its commit was not, else it was."""
    if history[: len(death.history)] != death.history:
        yield "recorded once: what was on disk is not how the history begins"
    if death.point.kind == "commit" and isinstance(death.what, dict) and SUBJECT in death.what["heads"]:
        head = death.what["heads"][SUBJECT]
        if (len(death.history) >= head) != (death.point.moment == "after"):
            yield f"output commit: {len(death.history)} events were on disk; the commit led to event {head}"


def _output_commit(death: Death) -> Iterator[str]:
    """What had left the process was on disk."""
    begun = attempts(death.history)
    for effect in death.effects:
        if (effect.step_key, effect.attempt) not in begun:
            yield f"output commit: {effect} ran, and no attempt was on disk"
    if death.told and not death.history:
        yield "output commit: the start was acknowledged, and no event was on disk"
    if death.watched != death.history[: len(death.watched)]:
        yield f"output commit: {len(death.watched)} events were seen, {len(death.history)} were on disk"


def attempts(history: Iterable[event_pb2.Event]) -> dict[tuple[str, int], event_pb2.AttemptStarted]:
    """Answer every attempt of a history by step key and number."""
    begun = [event.attempt_started for event in history if event.HasField("attempt_started")]
    return {(started.step_key, started.attempt): started for started in begun}


def open_attempts(history: list[event_pb2.Event]) -> list[event_pb2.AttemptStarted]:
    """Answer the attempts that a history leaves without an end."""
    begun = attempts(history)
    for event in history:
        for ended in (event.attempt_succeeded, event.attempt_failed):
            begun.pop((ended.step_key, ended.attempt), None)
    return list(begun.values())


def pauses(trial: Trial) -> list[float]:
    """Answer how long after each restart the first attempt began, where one had been cut off."""
    found = []
    for death, restart in zip(trial.deaths, trial.starts[1:], strict=False):
        begun = [
            event.time.ToMicroseconds() / 1e6
            for event in trial.watched[0].events[len(death.history) :]
            if event.HasField("attempt_started")
        ]
        if open_attempts(death.history) and begun:
            found.append(begun[0] - restart)
    return found
