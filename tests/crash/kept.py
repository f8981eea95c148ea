"""Whether a server kept its promises to many workflows at once, judged from outside by the promises' names."""

from __future__ import annotations

import collections
import contextlib
import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.history import FINAL_DETAILS
from mendflow_server.watch import kind_of
from tests.crash.verdict import attempts, open_attempts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from tests.crash.load import Told, Watched

History = list[event_pb2.Event]


@dataclass(frozen=True)
class Effect:
    """A real execution of a step."""

    workflow_id: str
    step_key: str
    attempt: int
    idempotency_key: str


@dataclass(frozen=True)
class Row:
    """A workflow's row in the store."""

    uid: str
    state: int
    generation: int
    last_sequence: int


@dataclass(frozen=True)
class Evidence:
    """What is left when all is over."""

    histories: dict[str, History]
    rows: dict[str, Row]
    effects: list[Effect]
    told: Sequence[Told]
    watched: Sequence[Watched]


def read_store(store: Path) -> tuple[dict[str, History], dict[str, Row]]:
    """Answer the histories and the rows in a file that no server has open."""
    histories: dict[str, History] = collections.defaultdict(list)
    with contextlib.closing(sqlite3.connect(store)) as database:
        query = "select workflow_id, bytes from workflows join events using (key) order by key, sequence"
        for workflow_id, content in database.execute(query):
            histories[workflow_id].append(event_pb2.Event.FromString(content))
        query = "select workflow_id, uid, state, generation, last_sequence from workflows"
        return histories, {workflow_id: Row(*rest) for workflow_id, *rest in database.execute(query)}


def read_effects(path: Path) -> list[Effect]:
    """Answer what the steps put down."""
    return [Effect(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def broken(evidence: Evidence) -> list[str]:
    """Answer each breach of a promise, by the promise's name."""
    found = list(_nobody_else(evidence))
    effects: dict[str, list[Effect]] = collections.defaultdict(list)
    told: dict[str, list[Told]] = collections.defaultdict(list)
    watched: dict[str, list[Watched]] = collections.defaultdict(list)
    for effect in evidence.effects:
        effects[effect.workflow_id].append(effect)
    for each in evidence.told:
        told[each.workflow_id].append(each)
    for watch in evidence.watched:
        watched[watch.workflow_id].append(watch)
    for workflow_id, row in evidence.rows.items():
        history = evidence.histories.get(workflow_id, [])
        breaches = [
            *_durable_start(row, history, told[workflow_id]),
            *_told_what_is_so(history, told[workflow_id]),
            *_recorded_once(history),
            *_on_record(history, effects[workflow_id]),
            *_one_driver(row, history),
            *_faithful_watch(history, watched[workflow_id]),
        ]
        found += [f"{workflow_id}: {breach}" for breach in breaches]
    return found


def _nobody_else(evidence: Evidence) -> Iterator[str]:
    """What was acknowledged is in the store; what ran is as well."""
    for workflow_id in {told.workflow_id for told in evidence.told if told.kind == "started"} - evidence.rows.keys():
        yield f"{workflow_id}: durable start: it was acknowledged and is lost"
    for workflow_id in {effect.workflow_id for effect in evidence.effects} - evidence.rows.keys():
        yield f"{workflow_id}: output commit: it ran and is not in the store"


def _durable_start(row: Row, history: History, told: Iterable[Told]) -> Iterator[str]:
    """One workflow, under the uid that its callers were told, at its one end."""
    uids = {each.detail for each in told if each.kind == "started"} | {row.uid}
    if not history or uids != {history[0].workflow_started.uid}:
        yield f"durable start: {uids} were told and kept, the history has {len(history)} events"
        return
    ends = [event for event in history if event.WhichOneof("detail") in FINAL_DETAILS]
    if ends != history[-1:]:
        yield f"durable start: the history has {len(ends)} ends"
    elif FINAL_DETAILS[ends[0].WhichOneof("detail") or ""] != row.state:
        yield f"durable start: the row says {row.state}, the history {ends[0].WhichOneof('detail')}"


def _told_what_is_so(history: History, told: Iterable[Told]) -> Iterator[str]:
    """Results are as recorded. What was acknowledged is in the history once, what was refused is not in it."""
    signals = collections.Counter(event.signal_received.request_id for event in history)
    cancels = sum(event.HasField("cancel_requested") for event in history)
    takes = collections.Counter(
        event.signal_taken.signal_sequence for event in history if event.HasField("signal_taken")
    )
    received = {event.sequence for event in history if event.HasField("signal_received")}
    if any(number > 1 or sequence not in received for sequence, number in takes.items()):
        yield f"durable start: the signals taken are {takes}, of {received}"
    for each in told:
        if each.kind == "signalled" and signals[each.detail] != 1:
            yield f"durable start: acknowledged signal {each.detail} is {signals[each.detail]} times in the history"
        elif each.kind == "refused" and signals[each.detail]:
            yield f"clear refusal: signal {each.detail} was refused, and is in the history"
        elif each.kind == "cancelled" and cancels != 1:
            yield f"durable start: a cancel was acknowledged, the history has {cancels}"
        elif each.kind == "result" and not _is_end(each.detail, history[-1]):
            yield f"output commit: told {each.detail}, recorded {history[-1]}"


def _is_end(told: workflow_pb2.Workflow, last: event_pb2.Event) -> bool:
    return (
        FINAL_DETAILS.get(last.WhichOneof("detail") or "") == told.state
        and told.last_sequence == last.sequence
        and told.output == last.workflow_succeeded.output
        and told.failure == last.workflow_failed.failure
    )


def _recorded_once(history: History) -> Iterator[str]:
    """After a result there is neither an attempt nor another result of the step."""
    done: set[str] = set()
    for event in history:
        for detail in (event.attempt_started, event.attempt_succeeded):
            if detail.step_key in done:
                yield f"recorded once: event {event.sequence} is of {detail.step_key}, which had its result"
        if event.HasField("attempt_succeeded"):
            done.add(event.attempt_succeeded.step_key)


def _on_record(history: History, effects: Iterable[Effect]) -> Iterator[str]:
    """Each execution is an attempt on record, executed once, under its step's one idempotency key; each has an end."""
    begun = attempts(history)
    keys: dict[str, str] = {}
    for (step_key, _), started in begun.items():
        if started.idempotency_key and keys.setdefault(step_key, started.idempotency_key) != started.idempotency_key:
            yield f"recorded once: {step_key} has two idempotency keys"
    for effect, times in collections.Counter(effects).items():
        if (effect.step_key, effect.attempt) not in begun:
            yield f"every attempt on record: {effect} is not"
        elif times > 1:
            yield f"every attempt on record: {effect} ran {times} times"
        elif effect.idempotency_key != keys.get(effect.step_key):
            yield f"recorded once: {effect} ran under another key than {keys.get(effect.step_key)}"
    if left := open_attempts(history):
        yield f"every attempt on record: {[each.step_key for each in left]} have no end"
    for step_key in keys:
        numbers = [number for key, number in begun if key == step_key]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"every attempt on record: {step_key} has the attempts {numbers}"


def _one_driver(row: Row, history: History) -> Iterator[str]:
    """Drivers follow one another."""
    generations = [event.workflow_recovered.generation for event in history if event.HasField("workflow_recovered")]
    if generations != sorted(set(generations)) or any(each > row.generation for each in generations):
        yield f"one driver: the generations are {generations}, the row's is {row.generation}"


def _faithful_watch(history: History, watched: Iterable[Watched]) -> Iterator[str]:
    """Each watcher saw what it asked for, each event once, in order, to the end."""
    if [event.sequence for event in history] != list(range(1, len(history) + 1)):
        yield f"faithful watch: the history's sequences are {[event.sequence for event in history]}"
    for each in watched:
        wanted = [
            event
            for event in history
            if event.sequence > each.after_sequence and (not each.kinds or kind_of(event) in each.kinds)
        ]
        if each.events != wanted or not each.ended:
            seen = [event.sequence for event in each.events]
            yield (
                f"faithful watch: the watch of {each.kinds or 'all'} after {each.after_sequence} saw {seen}, "
                f"not {[event.sequence for event in wanted]}{'' if each.ended else ', and no end'}"
            )
