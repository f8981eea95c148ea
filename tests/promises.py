"""The checker: whether a server kept its promises, judged from outside by their names in the README.

It takes what is left when all is over (the store's histories and rows, the journal in which each real execution of a
step is a line, what clients were told, what watchers saw) and, where a server was killed, what of these there was at
each death. It never asks the server.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import json
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.history import FINAL_DETAILS, FINAL_STATES
from mendflow_server.watch import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

#: How soon after a restart was asked for a server must go on with what was cut off, in seconds: the promise says one,
#: and the machine is busy.
SOON = 3.0


class Promise(enum.StrEnum):
    """The promises that can be judged by what a server leaves behind."""

    DURABLE_START = "durable start"
    RECORDED_ONCE = "recorded once"
    OUTPUT_COMMIT = "output commit"
    ONE_DRIVER = "one driver"
    FAITHFUL_WATCH = "faithful watch"
    EVERY_ATTEMPT_ON_RECORD = "every attempt on record"
    RECOVERY_BY_DEFAULT = "recovery by default"
    CLEAR_REFUSAL = "clear refusal"


@dataclass(frozen=True)
class Broken:
    """A promise that was not kept, to which workflow, and how."""

    promise: Promise
    workflow_id: str
    how: str

    def __str__(self) -> str:
        return f"{self.workflow_id}: {self.promise}: {self.how}"


History = list[event_pb2.Event]
#: A breach of the workflow that is being judged.
Breach = tuple[Promise, str]


@dataclass(frozen=True)
class Effect:
    """A real execution of a step: a line of the journal."""

    workflow_id: str
    step_key: str
    attempt: int
    idempotency_key: str


@dataclass(frozen=True)
class Told:
    """What a client was told: started (the uid), signalled, cancelled or refused (the request id), result (the end)."""

    kind: str
    workflow_id: str
    detail: Any


@dataclass
class Watched:
    """What one watcher saw, over all its connections. ``ended``: it was told that there is no more."""

    workflow_id: str
    kinds: tuple[int, ...] = ()
    after_sequence: int = 0
    events: list[event_pb2.Event] = field(default_factory=list)
    ended: bool = False


@dataclass(frozen=True)
class Row:
    """A workflow's row in the store."""

    uid: str
    state: int
    generation: int
    last_sequence: int


@dataclass(frozen=True)
class Stored:
    """What a store holds, and what is wrong with the file itself."""

    histories: dict[str, History] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    damage: tuple[str, ...] = ()


@dataclass(frozen=True)
class Death:
    """A SIGKILL: what was on disk then, and what had left the process."""

    stored: Stored
    effects: list[Effect] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    #: If it died at the edge of a commit: each workflow's last sequence by it, and whether it had returned.
    heads: Mapping[str, int] = field(default_factory=dict)
    committed: bool = False
    #: When the next life was asked for, by the wall clock in seconds; None: there was none.
    restarted: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What is left when all is over."""

    stored: Stored
    effects: list[Effect] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    #: Every workflow has had the time to end.
    over: bool = True


# --- reading --------------------------------------------------------------------------------------


def read_store(path: Path) -> Stored:
    """Answer what is in a SQLite file that no server has open; nothing, if none has begun in it."""
    histories: dict[str, History] = collections.defaultdict(list)
    with contextlib.closing(sqlite3.connect(path)) as database:
        if not database.execute("select 1 from sqlite_master where name = 'events'").fetchone():
            return Stored()
        damage = [text for (text,) in database.execute("pragma integrity_check") if text != "ok"]
        query = "select workflow_id, sequence, bytes from workflows join events using (key) order by key, sequence"
        for workflow_id, sequence, content in database.execute(query):
            event = event_pb2.Event.FromString(content)
            histories[workflow_id].append(event)
            if event.sequence != sequence:
                damage.append(f"{workflow_id}: event {event.sequence} is stored as {sequence}")
        (orphans,) = database.execute("select count(*) from events where key not in (select key from workflows)")
        if orphans[0]:
            damage.append(f"{orphans[0]} events of no workflow")
        query = "select workflow_id, uid, state, generation, last_sequence from workflows"
        rows = {workflow_id: Row(*rest) for workflow_id, *rest in database.execute(query)}
    return Stored(histories, rows, tuple(damage))


def read_effects(path: Path) -> list[Effect]:
    """Answer what the steps put down; nothing, if none has run."""
    return [Effect(**json.loads(line)) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def attempts(history: Iterable[event_pb2.Event]) -> dict[tuple[str, int], event_pb2.AttemptStarted]:
    """Answer every attempt of a history by step key and number."""
    begun = [event.attempt_started for event in history if event.HasField("attempt_started")]
    return {(started.step_key, started.attempt): started for started in begun}


def open_attempts(history: Iterable[event_pb2.Event]) -> list[event_pb2.AttemptStarted]:
    """Answer the attempts that a history leaves without an end."""
    history = list(history)
    begun = attempts(history)
    for event in history:
        for ended in (event.attempt_succeeded, event.attempt_failed):
            begun.pop((ended.step_key, ended.attempt), None)
    return list(begun.values())


def pauses(workflow_id: str, history: History, deaths: Iterable[Death]) -> list[float]:
    """Answer how long after each restart the first attempt began, in seconds, where one had been cut off."""
    found = []
    for death in deaths:
        before = death.stored.histories.get(workflow_id, [])
        begun = [
            event.time.ToMicroseconds() / 1e6 for event in history[len(before) :] if event.HasField("attempt_started")
        ]
        if death.restarted is not None and open_attempts(before) and begun:
            found.append(begun[0] - death.restarted)
    return found


# --- judging --------------------------------------------------------------------------------------


def broken(evidence: Evidence) -> list[Broken]:
    """Answer each breach of a promise."""
    stored = evidence.stored
    found = [Broken(Promise.DURABLE_START, "", f"the file is damaged: {each}") for each in stored.damage]
    found += _missing(evidence)
    effects: dict[str, list[Effect]] = collections.defaultdict(list)
    told: dict[str, list[Told]] = collections.defaultdict(list)
    watched: dict[str, list[Watched]] = collections.defaultdict(list)
    for effect in evidence.effects:
        effects[effect.workflow_id].append(effect)
    for each in evidence.told:
        told[each.workflow_id].append(each)
    for watch in evidence.watched:
        watched[watch.workflow_id].append(watch)
    for workflow_id, row in stored.rows.items():
        history = stored.histories.get(workflow_id, [])
        breaches = [
            *_durable_start(row, history, told[workflow_id], over=evidence.over),
            *_told_what_is_so(history, told[workflow_id]),
            *_recorded_once(history),
            *_on_record(history, effects[workflow_id], over=evidence.over),
            *_one_driver(row, history, watched[workflow_id]),
            *_faithful_watch(history, watched[workflow_id]),
            *_recovery_by_default(workflow_id, history, evidence),
        ]
        for death in evidence.deaths:
            breaches += _went_on(workflow_id, history, death)
        found += [Broken(promise, workflow_id, how) for promise, how in breaches]
    for death in evidence.deaths:
        found += _output_commit(death)
    return found


def _missing(evidence: Evidence) -> Iterator[Broken]:
    """What was acknowledged is in the store; what ran is as well."""
    there = evidence.stored.rows.keys()
    for workflow_id in {told.workflow_id for told in evidence.told if told.kind == "started"} - there:
        yield Broken(Promise.DURABLE_START, workflow_id, "it was acknowledged and is lost")
    for workflow_id in {effect.workflow_id for effect in evidence.effects} - there:
        yield Broken(Promise.OUTPUT_COMMIT, workflow_id, "it ran and is not in the store")


def _durable_start(row: Row, history: History, told: Iterable[Told], *, over: bool) -> Iterator[Breach]:
    """One workflow, under the uid that its callers were told, at its one end."""
    uids = {each.detail for each in told if each.kind == "started"} | {row.uid}
    if not history or uids != {history[0].workflow_started.uid}:
        yield Promise.DURABLE_START, f"{uids} were told and kept, the history has {len(history)} events"
        return
    if row.last_sequence != history[-1].sequence:
        yield Promise.DURABLE_START, f"the row says {row.last_sequence} events, the history has {len(history)}"
    ends = [event for event in history if event.WhichOneof("detail") in FINAL_DETAILS]
    if (ends or over) and ends != history[-1:]:
        yield Promise.DURABLE_START, f"the history has {len(ends)} ends, and ends with {history[-1]}"
        return
    final = FINAL_DETAILS[ends[0].WhichOneof("detail") or ""] if ends else None
    if final != (row.state if row.state in FINAL_STATES else None):
        yield Promise.DURABLE_START, f"the row says {row.state}, the history {history[-1].WhichOneof('detail')}"


def _told_what_is_so(history: History, told: Iterable[Told]) -> Iterator[Breach]:
    """Results are as recorded. What was acknowledged is in the history once, what was refused is not in it."""
    signals = collections.Counter(event.signal_received.request_id for event in history)
    cancels = sum(event.HasField("cancel_requested") for event in history)
    takes = collections.Counter(
        event.signal_taken.signal_sequence for event in history if event.HasField("signal_taken")
    )
    received = {event.sequence for event in history if event.HasField("signal_received")}
    if any(number > 1 or sequence not in received for sequence, number in takes.items()):
        yield Promise.DURABLE_START, f"the signals taken are {takes}, of {received}"
    if cancels > 1:
        yield Promise.DURABLE_START, f"the history has {cancels} cancels"
    for each in told:
        if each.kind == "signalled" and signals[each.detail] != 1:
            yield (
                Promise.DURABLE_START,
                f"acknowledged signal {each.detail} is {signals[each.detail]} times in the history",
            )
        elif each.kind == "refused" and signals[each.detail]:
            yield Promise.CLEAR_REFUSAL, f"signal {each.detail} was refused, and is in the history"
        elif each.kind == "cancelled" and cancels != 1:
            yield Promise.DURABLE_START, f"a cancel was acknowledged, the history has {cancels}"
        elif each.kind == "result" and not _is_end(each.detail, history[-1]):
            yield Promise.OUTPUT_COMMIT, f"told {each.detail}, recorded {history[-1]}"


def _is_end(told: workflow_pb2.Workflow, last: event_pb2.Event) -> bool:
    return (
        FINAL_DETAILS.get(last.WhichOneof("detail") or "") == told.state
        and told.last_sequence == last.sequence
        and told.output == last.workflow_succeeded.output
        and told.failure == last.workflow_failed.failure
    )


def _recorded_once(history: History) -> Iterator[Breach]:
    """After a result there is neither an attempt nor another result of the step."""
    done: set[str] = set()
    for event in history:
        for detail in (event.attempt_started, event.attempt_succeeded):
            if detail.step_key in done:
                yield Promise.RECORDED_ONCE, f"event {event.sequence} is of {detail.step_key}, which had its result"
        if event.HasField("attempt_succeeded"):
            done.add(event.attempt_succeeded.step_key)


def _on_record(history: History, effects: Iterable[Effect], *, over: bool) -> Iterator[Breach]:
    """Each execution is an attempt on record, executed once, under its step's one idempotency key; each has an end."""
    begun = attempts(history)
    keys: dict[str, str] = {}
    for (step_key, _), started in begun.items():
        if started.idempotency_key and keys.setdefault(step_key, started.idempotency_key) != started.idempotency_key:
            yield Promise.RECORDED_ONCE, f"{step_key} has two idempotency keys"
    for effect, times in collections.Counter(effects).items():
        if (effect.step_key, effect.attempt) not in begun:
            yield Promise.EVERY_ATTEMPT_ON_RECORD, f"{effect} is not"
        elif times > 1:
            yield Promise.EVERY_ATTEMPT_ON_RECORD, f"{effect} ran {times} times"
        elif effect.idempotency_key != keys.get(effect.step_key):
            yield Promise.RECORDED_ONCE, f"{effect} ran under another key than {keys.get(effect.step_key)}"
    ended = bool(history) and history[-1].WhichOneof("detail") in FINAL_DETAILS
    if (ended or over) and (left := open_attempts(history)):
        yield Promise.EVERY_ATTEMPT_ON_RECORD, f"{[each.step_key for each in left]} have no end"
    for step_key in keys:
        numbers = [number for key, number in begun if key == step_key]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Promise.EVERY_ATTEMPT_ON_RECORD, f"{step_key} has the attempts {numbers}"


def _one_driver(row: Row, history: History, watched: Iterable[Watched]) -> Iterator[Breach]:
    """Drivers follow one another, nobody writes after the end, and nobody writes over what another has written."""
    generations = [event.workflow_recovered.generation for event in history if event.HasField("workflow_recovered")]
    if generations != sorted(set(generations)) or any(each > row.generation for each in generations):
        yield Promise.ONE_DRIVER, f"the generations are {generations}, the row's is {row.generation}"
    for event in history[:-1]:
        if event.WhichOneof("detail") in FINAL_DETAILS:
            yield Promise.ONE_DRIVER, f"event {event.sequence} is an end, and was written after"
    kept = {event.sequence: event for event in history}
    for seen in {event.sequence: event for watch in watched for event in watch.events}.values():
        if kept.get(seen.sequence, seen) != seen:
            yield Promise.ONE_DRIVER, f"event {seen.sequence} was written twice: {seen} and {kept[seen.sequence]}"


def _faithful_watch(history: History, watched: Iterable[Watched]) -> Iterator[Breach]:
    """Each watcher saw what it asked for, each event once, in order, to the end."""
    if [event.sequence for event in history] != list(range(1, len(history) + 1)):
        yield Promise.FAITHFUL_WATCH, f"the history's sequences are {[event.sequence for event in history]}"
    for each in watched:
        wanted = asked_for(each, history)
        if each.events != wanted or not each.ended:
            seen = [event.sequence for event in each.events]
            yield (
                Promise.FAITHFUL_WATCH,
                (
                    f"the watch of {each.kinds or 'all'} after {each.after_sequence} saw {seen}, "
                    f"not {[event.sequence for event in wanted]}{'' if each.ended else ', and no end'}"
                ),
            )


def asked_for(watch: Watched, history: Iterable[event_pb2.Event]) -> list[event_pb2.Event]:
    """Answer what a watcher must see of a history."""
    return [
        event
        for event in history
        if event.sequence > watch.after_sequence and (not watch.kinds or kind_of(event) in watch.kinds)
    ]


def _recovery_by_default(workflow_id: str, history: History, evidence: Evidence) -> Iterator[Breach]:
    """What a death cut off or left waiting goes on by itself, and soon."""
    for pause in pauses(workflow_id, history, evidence.deaths):
        if pause > SOON:
            yield Promise.RECOVERY_BY_DEFAULT, f"it went on {pause:.2f} s after the restart"
    last = evidence.deaths[-1] if evidence.deaths else None
    if last is None or last.restarted is None or not evidence.over:
        return
    before = last.stored.histories.get(workflow_id, [])
    unmoved = before and len(history) == len(before) and before[-1].WhichOneof("detail") not in FINAL_DETAILS
    if unmoved:
        yield Promise.RECOVERY_BY_DEFAULT, f"since the last death nothing has come after {before[-1]}"


def _went_on(workflow_id: str, history: History, death: Death) -> Iterator[Breach]:
    """What was on disk is how the history begins; and what was killed before its commit was not, else it was."""
    before = death.stored.histories.get(workflow_id, [])
    if history[: len(before)] != before:
        yield Promise.RECORDED_ONCE, "what was on disk is not how the history begins"
    head = death.heads.get(workflow_id)
    if head is not None and (len(before) >= head) != death.committed:
        yield Promise.OUTPUT_COMMIT, f"{len(before)} events were on disk; the commit led to event {head}"


def _output_commit(death: Death) -> Iterator[Broken]:
    """What had left the process was on disk."""
    histories = death.stored.histories
    for effect in death.effects:
        if (effect.step_key, effect.attempt) not in attempts(histories.get(effect.workflow_id, [])):
            yield Broken(Promise.OUTPUT_COMMIT, effect.workflow_id, f"{effect} had run, and no attempt was on disk")
    for workflow_id in {told.workflow_id for told in death.told if told.kind == "started"} - histories.keys():
        yield Broken(Promise.OUTPUT_COMMIT, workflow_id, "its start had been acknowledged, and nothing was on disk")
    for watch in death.watched:
        before = histories.get(watch.workflow_id, [])
        if watch.events != asked_for(watch, before)[: len(watch.events)]:
            how = f"{len(watch.events)} events had been seen, {len(before)} were on disk"
            yield Broken(Promise.OUTPUT_COMMIT, watch.workflow_id, how)
