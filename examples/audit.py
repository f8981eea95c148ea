"""Checks of the demo's claims against the committed history, the watched events and the mailbox."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from examples.campaign import message_id
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mendflow.v1 import event_pb2


RETRY = failure_pb2.RETRY_ACTION_RETRY


@dataclass(frozen=True)
class Finding:
    """A claim, whether it holds, and the evidence."""

    claim: str
    holds: bool
    details: tuple[str, ...] = ()


@dataclass
class Step:
    """A step in the history."""

    key: str
    idempotency_key: str = ""
    recipient: str = ""
    #: The sequence of each AttemptStarted, by attempt.
    started: dict[int, int] = field(default_factory=dict)
    #: The (sequence, attempt) of each result. There must be at most one.
    succeeded: list[tuple[int, int]] = field(default_factory=list)
    #: The failures by attempt.
    failed: dict[int, event_pb2.AttemptFailed] = field(default_factory=dict)

    @property
    def lost(self) -> list[int]:
        """The attempts that the crash interrupted."""
        return [number for number, one in self.failed.items() if one.failure.kind == failure_pb2.FAILURE_KIND_LOST]

    def in_flight_at(self, sequence: int) -> list[int]:
        """Return the attempts that started before this event and had neither succeeded nor failed."""
        ended = {attempt for at, attempt in self.succeeded if at < sequence} | (self.failed.keys() - set(self.lost))
        return [attempt for attempt, at in self.started.items() if at < sequence and attempt not in ended]


def steps_of(history: Iterable[event_pb2.Event]) -> dict[str, Step]:
    """Return the history's steps by key."""
    steps: dict[str, Step] = {}
    for event in history:
        kind = event.WhichOneof("detail")
        if kind not in ("attempt_started", "attempt_succeeded", "attempt_failed"):
            continue
        detail = getattr(event, kind)
        step = steps.setdefault(detail.step_key, Step(detail.step_key))
        if kind == "attempt_started":
            step.started[detail.attempt] = event.sequence
            if detail.attempt == 1:
                step.idempotency_key = detail.idempotency_key
                step.recipient = json.loads(detail.input.json).get("message", {}).get("recipient", "")
        elif kind == "attempt_succeeded":
            step.succeeded.append((event.sequence, detail.attempt))
        else:
            step.failed[detail.attempt] = detail
    return steps


def audit(
    *,
    watched: Sequence[event_pb2.Event],
    watched_before_crash: int,
    history: Sequence[event_pb2.Event],
    report: Mapping[str, Any],
    recipients: Sequence[str],
    mailbox: Sequence[Mapping[str, Any]],
) -> list[Finding]:
    """Return the findings, in the order in which they are printed."""
    steps = steps_of(history)
    before = watched[:watched_before_crash]
    return [
        _watch(watched, history, watched_before_crash),
        _results(before, steps),
        *_reruns(steps, history),
        _keys(steps, report),
        _deliveries(report, recipients, mailbox),
        _duplicates(steps, mailbox),
    ]


def _watch(watched: Sequence[event_pb2.Event], history: Sequence[event_pb2.Event], before: int) -> Finding:
    sequences = [event.sequence for event in watched]
    holds = sequences == list(range(1, len(history) + 1)) and list(watched) == list(history)
    claim = f"one watch received all {len(history)} events once, in order, without a gap"
    return Finding(claim, holds, (f"{before} before the kill, {len(watched) - before} after it",))


def _results(before: Iterable[event_pb2.Event], steps: Mapping[str, Step]) -> Finding:
    """Check that no result from before the crash was lost, changed or computed again."""
    wrong = []
    recorded = {event.attempt_succeeded.step_key: event for event in before if event.HasField("attempt_succeeded")}
    for key, event in recorded.items():
        step = steps.get(key)
        expected = [(event.sequence, event.attempt_succeeded.attempt)]
        if (
            step is None
            or step.succeeded != expected
            or any(started > event.sequence for started in step.started.values())
        ):
            wrong.append(key)
    wrong += [key for key, step in steps.items() if len(step.succeeded) > 1]
    claim = f"lost: nothing. All {len(recorded)} recorded results were reused, and none was computed again"
    return Finding(claim, bool(recorded) and not wrong, tuple(wrong))


def _reruns(steps: Mapping[str, Step], history: Sequence[event_pb2.Event]) -> Iterable[Finding]:
    """Check that only the attempts that the crash interrupted ran again."""
    recovered = next((event.sequence for event in history if event.HasField("workflow_recovered")), 0)
    cut = {(step.key, number) for step in steps.values() for number in step.lost}
    losses = [
        event.sequence for event in history if (event.attempt_failed.step_key, event.attempt_failed.attempt) in cut
    ]
    in_flight = {(key, n) for key, step in steps.items() for n in step.in_flight_at(min([recovered, *losses]))}
    details = []
    for key, number in sorted(cut, key=lambda pair: steps[pair[0]].started[pair[1]]):
        step = steps[key]
        end = (
            f"attempt {step.succeeded[0][1]} ok"
            if step.succeeded
            else f"attempt {max(step.started)} failed permanently"
        )
        details.append(f"{key}: attempt {number} interrupted, {end}, same key ({step.recipient})")
    holds = bool(recovered) and bool(cut) and cut == in_flight and all(_retried(steps[key], n) for key, n in cut)
    yield Finding(f"ran again: only the {len(cut)} interrupted attempts", holds, tuple(details))
    # Any other attempt after the first must follow its own failure.
    again = [one for step in steps.values() for number, one in step.failed.items() if number not in step.lost]
    causes = Counter(one.failure.status_code or one.failure.type for one in again if one.decision.action == RETRY)
    unexplained = [
        f"{s.key}: attempt {n}" for s in steps.values() for n in s.started if n > 1 and n - 1 not in s.failed
    ]
    claim = f"also retried: {causes.total()} attempts that the mail server refused for now"
    details = [f"{cause}: {count}" for cause, count in sorted(causes.items())]
    yield Finding(claim, not unexplained, tuple(details + unexplained))


def _retried(step: Step, lost: int) -> bool:
    return lost + 1 in step.started and len(step.succeeded) <= 1


def _keys(steps: Mapping[str, Step], report: Mapping[str, Any]) -> Finding:
    """Check that every message was sent with the key that was recorded before its first attempt."""
    expected = {message_id(step.idempotency_key) for key, step in steps.items() if "send" in key and step.succeeded}
    reported = [delivery["message_id"] for delivery in report["sent"]]
    holds = set(reported) == expected and len(reported) == len(expected)
    return Finding(f"each of {len(reported)} messages kept its Message-ID in all attempts", holds)


def _deliveries(report: Mapping[str, Any], recipients: Sequence[str], mailbox: Sequence[Mapping[str, Any]]) -> Finding:
    """Check that each recipient got the message or is reported as rejected."""
    sent = {delivery["recipient"]: delivery["message_id"] for delivery in report["sent"]}
    rejected = {rejection["recipient"]: rejection["why"] for rejection in report["rejected"]}
    arrived = {line["message_id"]: line["recipients"] for line in mailbox}
    holds = arrived == {identity: [recipient] for recipient, identity in sent.items()}
    holds = holds and sorted([*sent, *rejected]) == sorted(recipients)
    claim = f"of {len(recipients)} recipients {len(sent)} have the message, {len(rejected)} rejected it"
    return Finding(claim, holds, tuple(f"{recipient}: {why}" for recipient, why in rejected.items()))


def _duplicates(steps: Mapping[str, Step], mailbox: Sequence[Mapping[str, Any]]) -> Finding:
    """Check that only interrupted attempts caused duplicates."""
    arrivals = Counter(line["message_id"] for line in mailbox)
    twice = {identity: count for identity, count in arrivals.items() if count > 1}
    cut = defaultdict(int, {message_id(step.idempotency_key): len(step.lost) for step in steps.values()})
    who = {line["message_id"]: ", ".join(line["recipients"]) for line in mailbox}
    details = tuple(f"{who[identity]}: {count} times {identity}" for identity, count in twice.items())
    claim = f"arrived twice: {len(twice)}, accepted during the crash; the receiver can drop them by Message-ID"
    if not twice:
        claim = "arrived twice: none"
    return Finding(claim, all(count <= 1 + cut[identity] for identity, count in twice.items()), details)
