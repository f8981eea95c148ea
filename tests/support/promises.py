"""The checker: it judges from outside whether a server kept its promises, and names them as the README does.

Its evidence is what remains at the end: the store's histories and rows, the journal (one line for each real execution
of a step), the replies to clients, and the events that watchers saw. It also has the same things as they were at each
death of the server, looks at a server whose workflows wait, and the server's health answers beside the troubles that
the test made. `tests.support.evidence` defines these terms. The checker never takes the server's word for anything.

"Within a second of the restart" is measured as follows. It begins when the next life's process is up: the process
exists and has imported what it serves, but no code of the server has run. It ends with the event by which a thing that
was due continues, by the event's own time. For a thing that becomes due later, the time begins then. The checker adds
`Evidence.allowance`, and the time in which something on the machine waited for a processor or the disk, by the
kernel's count (`Evidence.stalled`): the server is not to blame for that.
"""

from __future__ import annotations

import collections
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.engine.watch_hub import kind_of
from mendflow_server.history.state import FINAL_DETAILS, FINAL_STATES
from mendflow_server.store.records import InboxKind
from tests.support.debts import STOPS, Debt, owed
from tests.support.evidence import (
    Answer,
    Death,
    Effect,
    Evidence,
    Health,
    History,
    Look,
    Reply,
    Row,
    Stored,
    Trouble,
    Watched,
    attempts,
    copy_store,
    open_attempts,
    read_effects,
    read_store,
    seconds_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Answer",
    "Broken",
    "Death",
    "Effect",
    "Evidence",
    "Health",
    "Look",
    "Promise",
    "Reply",
    "Row",
    "Stored",
    "Trouble",
    "Watched",
    "asked_for",
    "attempts",
    "broken",
    "copy_store",
    "delays",
    "open_attempts",
    "read_effects",
    "read_store",
]

#: How soon after a restart a server must continue what is due, in seconds.
SOON: Final = 1.0
#: The precision of recorded times, in seconds.
EXACT: Final = 0.001
#: For each kind of acknowledged command: the event that it leads to, and its kind in the inbox.
COMMANDS: Final = {
    "cancelled": ("cancel_requested", InboxKind.CANCEL),
    "resumed": ("workflow_resumed", InboxKind.RESUME),
    "terminated": ("workflow_terminated", InboxKind.TERMINATE),
}


class Promise(enum.StrEnum):
    """The promises of the README."""

    DURABLE_START = "durable start"
    RECORDED_ONCE = "recorded once"
    OUTPUT_COMMIT = "output commit"
    ONE_DRIVER = "one driver"
    FAITHFUL_WATCH = "faithful watch"
    EVERY_ATTEMPT_ON_RECORD = "every attempt on record"
    RECOVERY_BY_DEFAULT = "recovery by default"
    WAITING_IS_FREE = "waiting is free"
    HONEST_HEALTH = "honest health"
    CLEAR_REFUSAL = "clear refusal"


@dataclass(frozen=True)
class Broken:
    """A broken promise: which one, to which workflow, and how it was broken."""

    promise: Promise
    workflow_id: str
    how: str

    def __str__(self) -> str:
        return f"{self.workflow_id}: {self.promise}: {self.how}"


#: A broken promise to the workflow that is judged, and how it was broken.
Breach = tuple[Promise, str]


def broken(evidence: Evidence) -> list[Broken]:
    """Return every broken promise."""
    stored = evidence.stored
    found = [Broken(Promise.DURABLE_START, "", f"the file is damaged: {each}") for each in stored.damage]
    found += _missing(evidence)
    effects: dict[str, list[Effect]] = collections.defaultdict(list)
    replies: dict[str, list[Reply]] = collections.defaultdict(list)
    watched: dict[str, list[Watched]] = collections.defaultdict(list)
    for effect in evidence.effects:
        effects[effect.workflow_id].append(effect)
    for each in evidence.replies:
        replies[each.workflow_id].append(each)
    for watch in evidence.watched:
        watched[watch.workflow_id].append(watch)
    for workflow_id, row in stored.rows.items():
        history = stored.histories.get(workflow_id, [])
        breaches = [
            *_durable_start(row, history, replies[workflow_id], over=evidence.over),
            *_replies_match(history, replies[workflow_id]),
            *_recorded_once(history),
            *_on_record(history, effects[workflow_id], over=evidence.over),
            *_closed_once(history),
            *_says_why(history),
            *_one_driver(row, history, watched[workflow_id]),
            *_generations_rise(workflow_id, row, evidence.deaths),
            *_faithful_watch(history, watched[workflow_id]),
            *_recovery_by_default(workflow_id, history, evidence),
        ]
        for death in evidence.deaths:
            breaches += _recovered_in_time(workflow_id, history, death)
        found += [Broken(promise, workflow_id, how) for promise, how in breaches]
    for death in evidence.deaths:
        found += _output_commit(death)
    for look in evidence.looks:
        found += _waiting_is_free(look)
    for health in evidence.health:
        found += _honest_health(health)
    return found


def _missing(evidence: Evidence) -> Iterator[Broken]:
    """Everything acknowledged and everything that ran is in the store."""
    there = evidence.stored.rows.keys()
    for workflow_id in {reply.workflow_id for reply in evidence.replies if reply.kind == "started"} - there:
        yield Broken(Promise.DURABLE_START, workflow_id, "it was acknowledged, but it is not in the store")
    for workflow_id in {effect.workflow_id for effect in evidence.effects} - there:
        yield Broken(Promise.OUTPUT_COMMIT, workflow_id, "it ran, but it is not in the store")


def _durable_start(row: Row, history: History, replies: Iterable[Reply], *, over: bool) -> Iterator[Breach]:
    """A start makes one workflow, with the uid that its callers received, and the workflow ends once."""
    uids = {each.detail for each in replies if each.kind == "started"} | {row.uid}
    if not history or uids != {history[0].workflow_started.uid}:
        yield Promise.DURABLE_START, f"replies and row have the uids {uids}; the history has {len(history)} events"
        return
    if row.last_sequence != history[-1].sequence:
        yield Promise.DURABLE_START, f"the row says {row.last_sequence} events, the history has {len(history)}"
    ends = [event for event in history if event.WhichOneof("detail") in FINAL_DETAILS]
    if (ends or over) and ends != history[-1:]:
        yield Promise.DURABLE_START, f"the history has {len(ends)} final events, and its last event is {history[-1]}"
        return
    final = FINAL_DETAILS[ends[0].WhichOneof("detail") or ""] if ends else None
    if final != (row.state if row.state in FINAL_STATES else None):
        yield Promise.DURABLE_START, f"the row says {row.state}, the history {history[-1].WhichOneof('detail')}"


def _replies_match(history: History, replies: Iterable[Reply]) -> Iterator[Breach]:
    """Results equal the record. An acknowledged command is in the history once, and a refused one is not."""
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
    for each in replies:
        if each.kind == "signalled" and signals[each.detail] != 1:
            yield (
                Promise.DURABLE_START,
                f"acknowledged signal {each.detail} is {signals[each.detail]} times in the history",
            )
        elif each.kind == "refused" and signals[each.detail]:
            yield Promise.CLEAR_REFUSAL, f"signal {each.detail} was refused, and is in the history"
        elif each.kind == "cancelled" and cancels != 1:
            yield Promise.DURABLE_START, f"a cancel was acknowledged, the history has {cancels}"
        elif each.kind == "resumed" and not any(event.HasField("workflow_resumed") for event in history):
            yield Promise.DURABLE_START, "a resume was acknowledged, the history has none"
        elif each.kind == "terminated" and not history[-1].HasField("workflow_terminated"):
            yield Promise.DURABLE_START, f"its termination was acknowledged, the history ends with {history[-1]}"
        elif each.kind == "result" and not _is_end(each.detail, history[-1]):
            yield Promise.OUTPUT_COMMIT, f"the client received {each.detail}, the history has {history[-1]}"


def _is_end(end: workflow_pb2.Workflow, last: event_pb2.Event) -> bool:
    return (
        FINAL_DETAILS.get(last.WhichOneof("detail") or "") == end.state
        and end.last_sequence == last.sequence
        and end.output == last.workflow_succeeded.output
        and end.failure == last.workflow_failed.failure
    )


def _recorded_once(history: History) -> Iterator[Breach]:
    """After a step's result there is no further attempt and no other result of that step."""
    done: set[str] = set()
    for event in history:
        for detail in (event.attempt_started, event.attempt_succeeded):
            if detail.step_key in done:
                yield Promise.RECORDED_ONCE, f"event {event.sequence} is of {detail.step_key}, which has a result"
        if event.HasField("attempt_succeeded"):
            done.add(event.attempt_succeeded.step_key)


def _on_record(history: History, effects: Iterable[Effect], *, over: bool) -> Iterator[Breach]:
    """Each execution is a recorded attempt, runs once, has its step's one idempotency key, and ends."""
    begun = attempts(history)
    keys: dict[str, str] = {}
    for (step_key, _), started in begun.items():
        if started.idempotency_key and keys.setdefault(step_key, started.idempotency_key) != started.idempotency_key:
            yield Promise.RECORDED_ONCE, f"{step_key} has two idempotency keys"
    for effect, times in collections.Counter(effects).items():
        if (effect.step_key, effect.attempt) not in begun:
            yield Promise.EVERY_ATTEMPT_ON_RECORD, f"{effect} has no AttemptStarted event"
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


def _closed_once(history: History) -> Iterator[Breach]:
    """Each attempt begins once and ends once, whichever replica records that."""
    is_open: set[tuple[str, int]] = set()
    begun: set[tuple[str, int]] = set()
    for event in history:
        if event.HasField("attempt_started"):
            each = (event.attempt_started.step_key, event.attempt_started.attempt)
            if each in begun:
                yield Promise.EVERY_ATTEMPT_ON_RECORD, f"event {event.sequence} starts {each} a second time"
            begun.add(each)
            is_open.add(each)
        for name in ("attempt_succeeded", "attempt_failed"):
            if event.HasField(name):
                each = (getattr(event, name).step_key, getattr(event, name).attempt)
                if each not in is_open:
                    yield Promise.EVERY_ATTEMPT_ON_RECORD, f"event {event.sequence} ends {each}, which is not open"
                is_open.discard(each)


def _says_why(history: History) -> Iterator[Breach]:
    """Each failed attempt records what happens next and why, and that happens at the recorded time."""
    resumed = [event.sequence for event in history if event.HasField("workflow_resumed")]
    failed: dict[str, event_pb2.Event] = {}
    for event in history:
        if event.HasField("attempt_failed"):
            failed[event.attempt_failed.step_key] = event
            decision = event.attempt_failed.decision
            if not (decision.action and decision.reason and decision.explanation):
                yield Promise.EVERY_ATTEMPT_ON_RECORD, f"event {event.sequence} does not say what follows, and why"
        elif event.HasField("attempt_started") and event.attempt_started.step_key in failed:
            last = failed[event.attempt_started.step_key]
            decision = last.attempt_failed.decision
            by_hand = any(last.sequence < sequence < event.sequence for sequence in resumed)
            if decision.action != failure_pb2.RETRY_ACTION_RETRY and not by_hand:
                yield Promise.EVERY_ATTEMPT_ON_RECORD, f"event {event.sequence} contradicts the decision {decision}"
            due = decision.next_attempt_time.ToMicroseconds() / 1e6
            if decision.HasField("next_attempt_time") and seconds_of(event) < due - EXACT:
                how = f"event {event.sequence} came {due - seconds_of(event):.3f} s before its time"
                yield Promise.EVERY_ATTEMPT_ON_RECORD, how


def _one_driver(row: Row, history: History, watched: Iterable[Watched]) -> Iterator[Breach]:
    """Drivers follow one another. No driver writes after the end, or over what another driver has written."""
    generations = [event.workflow_recovered.generation for event in history if event.HasField("workflow_recovered")]
    if generations != sorted(set(generations)) or any(each > row.generation for each in generations):
        yield Promise.ONE_DRIVER, f"the generations are {generations}, the row's is {row.generation}"
    for event in history[:-1]:
        if event.WhichOneof("detail") in FINAL_DETAILS:
            yield Promise.ONE_DRIVER, f"event {event.sequence} is final, but more events follow"
    kept = {event.sequence: event for event in history}
    for seen in {event.sequence: event for watch in watched for event in watch.events}.values():
        if kept.get(seen.sequence, seen) != seen:
            yield Promise.ONE_DRIVER, f"event {seen.sequence} was written twice: {seen} and {kept[seen.sequence]}"


def _generations_rise(workflow_id: str, row: Row, deaths: Iterable[Death]) -> Iterator[Breach]:
    """A workflow's generation never falls."""
    looks = [death.stored.rows[workflow_id] for death in deaths if workflow_id in death.stored.rows]
    generations = [each.generation for each in (*looks, row)]
    if generations != sorted(generations):
        yield Promise.ONE_DRIVER, f"its generations were {generations}, one after the other"


def _faithful_watch(history: History, watched: Iterable[Watched]) -> Iterator[Breach]:
    """Each watcher saw the events that it requested: each event once, in order, up to the end."""
    if [event.sequence for event in history] != list(range(1, len(history) + 1)):
        yield Promise.FAITHFUL_WATCH, f"the history's sequences are {[event.sequence for event in history]}"
    final = bool(history) and history[-1].WhichOneof("detail") in FINAL_DETAILS
    for each in watched:
        wanted = asked_for(each, history)
        if each.ended != final or each.events != (wanted if final else wanted[: len(each.events)]):
            seen = [event.sequence for event in each.events]
            yield (
                Promise.FAITHFUL_WATCH,
                (
                    f"the watch of {each.kinds or 'all'} after {each.after_sequence} saw {seen}, "
                    f"not {[event.sequence for event in wanted]}{', and an end' if each.ended else ', and no end'}"
                ),
            )


def asked_for(watch: Watched, history: Iterable[event_pb2.Event]) -> list[event_pb2.Event]:
    """Return the events of a history that a watcher must see."""
    return [
        event
        for event in history
        if event.sequence > watch.after_sequence and (not watch.kinds or kind_of(event) in watch.kinds)
    ]


def _settles(event: event_pb2.Event, debt: Debt) -> bool:
    """Return whether an event pays the debt, or shows that the debt no longer exists."""
    name = event.WhichOneof("detail") or ""
    stops = name in STOPS or name in FINAL_DETAILS or name == "cancel_requested"
    return stops or (debt.key != "" and event.call_cancelled.key == debt.key) or debt.done(event)


class Lateness(NamedTuple):
    """How late a debt was paid, and how late it may be. None means that it was not paid."""

    debt: Debt
    late: float | None
    limit: float


def _late(workflow_id: str, history: History, evidence: Evidence) -> Iterator[Lateness]:
    """Yield how late each life paid its debts to the workflow."""
    for index, death in enumerate(evidence.deaths):
        following = evidence.deaths[index + 1] if index + 1 < len(evidence.deaths) else None
        if death.up is None or (following is not None and following.time is None):
            continue
        if following is not None and _is_suspect(following.stored.rows.get(workflow_id)):
            continue
        after = history[len(death.stored.histories.get(workflow_id, [])) :]
        for debt in owed(death.stored, workflow_id, death.up):
            done = next((seconds_of(event) for event in after if _settles(event, debt)), None)
            until = following.time if following is not None else done
            limit = SOON + evidence.allowance
            if until is not None:
                limit += evidence.stalled(debt.due, until)
            if following is not None and following.time is not None and debt.due + limit >= following.time:
                continue  # The next life has this debt.
            if done is not None:
                yield Lateness(debt, done - debt.due, limit)
            elif evidence.over:
                yield Lateness(debt, None, limit)


def _is_suspect(row: Row | None) -> bool:
    """Return whether the server holds the workflow back as a possible cause of its crashes."""
    return row is not None and row.reason == event_pb2.STATE_REASON_SUSPECTED


def delays(evidence: Evidence) -> list[float]:
    """Return, for each debt at a restart, the seconds between its due time (or the restart) and its payment."""
    return [
        each.late
        for workflow_id, history in evidence.stored.histories.items()
        for each in _late(workflow_id, history, evidence)
        if each.late is not None
    ]


def _recovery_by_default(workflow_id: str, history: History, evidence: Evidence) -> Iterator[Breach]:
    """Whatever a death interrupts or leaves waiting continues without help, and soon."""
    for debt, late, limit in _late(workflow_id, history, evidence):
        if late is None:
            yield Promise.RECOVERY_BY_DEFAULT, f"{debt}: it has not continued since the restart"
        elif late > limit:
            yield Promise.RECOVERY_BY_DEFAULT, f"{debt}: it continued {late:.2f} s late (limit {limit:.2f} s)"


def _recovered_in_time(workflow_id: str, history: History, death: Death) -> Iterator[Breach]:
    """The history begins with what was stored at the death. A commit is stored if it returned, and only then."""
    before = death.stored.histories.get(workflow_id, [])
    if history[: len(before)] != before:
        yield Promise.RECORDED_ONCE, "the history does not begin with the events that were stored at the death"
    head = death.heads.get(workflow_id)
    if head is not None and (len(before) >= head) != death.committed:
        yield Promise.OUTPUT_COMMIT, f"{len(before)} events were stored; the commit led to event {head}"


def _output_commit(death: Death) -> Iterator[Broken]:
    """Whatever had left the process was committed."""
    histories = death.stored.histories
    begun = {workflow_id: attempts(history) for workflow_id, history in histories.items()}
    for effect in death.effects:
        if (effect.step_key, effect.attempt) not in begun.get(effect.workflow_id, {}):
            yield Broken(Promise.OUTPUT_COMMIT, effect.workflow_id, f"{effect} had run, but its attempt was not stored")
    for reply in death.replies:
        if not _is_stored(reply, death.stored):
            how = f"a client had the reply {reply.kind} {reply.detail}, but it was not stored"
            yield Broken(Promise.OUTPUT_COMMIT, reply.workflow_id, how)
    for watch in death.watched:
        before = {event.sequence: event for event in histories.get(watch.workflow_id, [])}
        ahead = [event.sequence for event in watch.events if before.get(event.sequence) != event]
        if ahead:
            how = f"watchers had seen the events {ahead}, but {len(before)} were stored"
            yield Broken(Promise.OUTPUT_COMMIT, watch.workflow_id, how)


def _is_stored(reply: Reply, stored: Stored) -> bool:
    """Return whether the content of a reply is stored, in the history or in the inbox."""
    history = stored.histories.get(reply.workflow_id, [])
    inbox = stored.inbox.get(reply.workflow_id, [])
    if reply.kind == "started":
        return bool(history) and history[0].workflow_started.uid == reply.detail
    if reply.kind == "signalled":
        received = any(event.signal_received.request_id == reply.detail for event in history)
        return received or (InboxKind.SIGNAL, reply.detail) in inbox
    if reply.kind == "result":
        return bool(history) and _is_end(reply.detail, history[-1])
    if reply.kind in COMMANDS:
        detail, command = COMMANDS[reply.kind]
        done = any(event.WhichOneof("detail") == detail for event in history)
        return done or any(kind == command for kind, _ in inbox)
    return True


def _waiting_is_free(look: Look) -> Iterator[Broken]:
    """Only running attempts hold slots, and a workflow that waits for long is in the store only."""
    rows = look.stored.rows
    running = sum(len(open_attempts(look.stored.histories.get(workflow_id, []))) for workflow_id in rows)
    queued = [name for name, row in rows.items() if row.reason == event_pb2.STATE_REASON_SLOT]
    if queued and running < look.slots:
        how = f"{len(queued)} wait for a slot, but only {running} of {look.slots} slots have an attempt"
        yield Broken(Promise.WAITING_IS_FREE, queued[0], how)
    waiting = [
        name
        for name, row in rows.items()
        if row.state == workflow_pb2.WORKFLOW_STATE_WAITING
        and row.reason != event_pb2.STATE_REASON_SLOT
        and (row.wake is None or row.wake > look.time + look.soon)
    ]
    awake = sum(row.state not in FINAL_STATES for row in rows.values()) - len(waiting)
    if look.workflows_in_memory is not None and look.workflows_in_memory > awake:
        how = (
            f"{look.workflows_in_memory} workflows are in memory; "
            f"{len(waiting)} wait for long, {awake} have something to do"
        )
        yield Broken(Promise.WAITING_IS_FREE, "", how)


def _honest_health(health: Health) -> Iterator[Broken]:
    """Health says SERVING when work moves. When work does not move, it says NOT_SERVING and why."""
    for trouble in health.troubles:
        noticed = trouble.begin + trouble.limit + health.notices
        for answer in health.answers:
            if answer.serving and answer.asked >= noticed and answer.received <= trouble.end:
                how = f"it said SERVING {answer.received - trouble.begin:.2f} s after the begin of: {trouble.what}"
                yield Broken(Promise.HONEST_HEALTH, "", how)
                break
        heard = [each for each in health.answers if trouble.begin <= each.received <= trouble.end + health.notices]
        if trouble.end > noticed and all(answer.serving for answer in heard):
            yield Broken(Promise.HONEST_HEALTH, "", f"no answer reported: {trouble.what}")
    for answer in health.answers:
        if not answer.serving and not any(
            trouble.begin <= answer.received and answer.asked <= trouble.end + health.recovers
            for trouble in health.troubles
        ):
            yield Broken(Promise.HONEST_HEALTH, "", f"without trouble it said NOT_SERVING for {answer.reasons}")
            break
    if any(not answer.serving and answer.reasons == () for answer in health.answers):
        yield Broken(Promise.HONEST_HEALTH, "", "it said NOT_SERVING without a reason")
