"""Checks of the cluster's claims against the committed histories, the watched events and the mailbox."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from examples.audit import Finding, Step, steps_of
from examples.campaign import message_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mendflow.v1 import event_pb2


@dataclass(eq=False)
class Story:
    """A campaign: what its watch received, its committed history, and its report."""

    workflow_id: str
    recipients: Sequence[str]
    watched: list[event_pb2.Event] = field(default_factory=list)
    history: Sequence[event_pb2.Event] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    #: How often the watch lost its connection.
    moves: int = 0
    #: The name of the replica that drove it first.
    first_driver: str = ""

    @property
    def steps(self) -> dict[str, Step]:
        """The steps of the history by key."""
        return steps_of(self.history)

    def taken_from(self, replica: str, name: Callable[[str], str]) -> int:
        """Return the sequence of the event with which another replica took the campaign over; 0 if none did."""
        return next(
            (
                event.sequence
                for event in self.history
                if event.HasField("workflow_recovered")
                and name(event.workflow_recovered.previous_replica_id) == replica != name(_new(event))
            ),
            0,
        )

    def continued_at(self, sequence: int) -> float:
        """Return when the first attempt began after an event, in seconds since the epoch; infinity if none did."""
        after = (event for event in self.history if event.sequence > sequence and event.HasField("attempt_started"))
        return next((event.time.ToMicroseconds() / 1e6 for event in after), float("inf"))


def _new(event: event_pb2.Event) -> str:
    return event.workflow_recovered.replica_id


def takeover_times(
    stories: Iterable[Story], replica: str, since: float, name: Callable[[str], str]
) -> list[tuple[float, str]]:
    """Return when each campaign of a replica continued elsewhere, in seconds since then, the first one first."""
    taken = [(story, story.taken_from(replica, name)) for story in stories]
    times = [(story.continued_at(sequence) - since, story.workflow_id) for story, sequence in taken if sequence]
    return sorted(pair for pair in times if pair[0] != float("inf"))


def audit(stories: Sequence[Story], mailbox: Sequence[Mapping[str, Any]], name: Callable[[str], str]) -> list[Finding]:
    """Return the findings, in the order in which they are printed. ``name`` returns a replica's name by its id."""
    return [
        _ends(stories),
        _watches(stories),
        _results(stories),
        _reruns(stories),
        _drivers(stories, name),
        _keys(stories, mailbox),
        _deliveries(stories, mailbox),
        _duplicates(stories, mailbox),
    ]


def _ends(stories: Sequence[Story]) -> Finding:
    wrong = [story.workflow_id for story in stories if not story.history[-1].HasField("workflow_succeeded")]
    return Finding(f"all {len(stories)} campaigns ended, and succeeded", bool(stories) and not wrong, tuple(wrong))


def _watches(stories: Sequence[Story]) -> Finding:
    """Check that each watch received its campaign's history, whichever replicas sent it."""
    wrong = [
        story.workflow_id
        for story in stories
        if list(story.watched) != list(story.history)
        or [event.sequence for event in story.watched] != list(range(1, len(story.history) + 1))
    ]
    count = sum(len(story.watched) for story in stories)
    moved = sum(story.moves > 0 for story in stories)
    claim = f"{len(stories)} watches received all {count} events once, in order, without a gap"
    return Finding(claim, not wrong, (f"{moved} of them moved to another replica on the way", *wrong))


def _results(stories: Sequence[Story]) -> Finding:
    """Check that no recorded result was computed again."""
    count, wrong = 0, []
    for story in stories:
        for step in story.steps.values():
            count += len(step.succeeded)
            at = [sequence for sequence, _ in step.succeeded]
            if len(at) > 1 or any(started > at[0] for started in step.started.values() if at):
                wrong.append(f"{story.workflow_id} {step.key}")
    return Finding(f"lost: nothing. Each of {count} results was recorded once, and none was computed again", not wrong,
                   tuple(wrong))  # fmt: skip


def _reruns(stories: Sequence[Story]) -> Finding:
    """Check that each interrupted attempt was followed by another one, and that nothing else ran again."""
    details, wrong = [], []
    for story in stories:
        for step in story.steps.values():
            place = f"{story.workflow_id} {step.key}"
            for number in step.lost:
                details.append(f"{place}: attempt {number} interrupted, attempt {number + 1} followed, same key")
                if number + 1 not in step.started:
                    wrong.append(f"{place}: no attempt after {number}")
            wrong += [f"{place}: attempt {n} has no cause" for n in step.started if n > 1 and n - 1 not in step.failed]
    claim = f"ran again: only the {len(details)} interrupted attempts, and what the mail server refused for now"
    return Finding(claim, bool(details) and not wrong, (*details, *wrong))


def _drivers(stories: Sequence[Story], name: Callable[[str], str]) -> Finding:
    """Check that the drivers of each campaign came one after the other: each one has a higher generation."""
    wrong, moves = [], Counter[str]()
    for story in stories:
        taken = [event.workflow_recovered for event in story.history if event.HasField("workflow_recovered")]
        generations = [each.generation for each in taken]
        if generations != sorted(set(generations)):
            wrong.append(story.workflow_id)
        moves.update(f"from {name(each.previous_replica_id)} to {name(each.replica_id)}" for each in taken)
    claim = f"one driver at a time: {moves.total()} times another one took over, each time with a higher generation"
    return Finding(claim, not wrong, (*(f"{way}: {count}" for way, count in sorted(moves.items())), *wrong))


def _keys(stories: Sequence[Story], mailbox: Sequence[Mapping[str, Any]]) -> Finding:
    """Check that every message in the mailbox has the key that was recorded before its first attempt."""
    expected = {
        message_id(step.idempotency_key): step.recipient
        for story in stories
        for step in story.steps.values()
        if step.recipient
    }
    messages = sum(1 for story in stories for step in story.steps.values() if step.recipient)
    used = {line["message_id"] for line in mailbox}
    strange = [line["message_id"] for line in mailbox if [expected.get(line["message_id"])] != line["recipients"]]
    holds = not strange and len(expected) == messages
    return Finding(f"{len(used)} idempotency keys were used, each for one message in all its attempts", holds,
                   tuple(strange))  # fmt: skip


def _deliveries(stories: Sequence[Story], mailbox: Sequence[Mapping[str, Any]]) -> Finding:
    """Check that each message of each campaign has arrived or is reported as rejected, and no other one has."""
    arrived = {line["message_id"] for line in mailbox}
    reported: set[str] = set()
    wrong, sent, rejected = [], 0, 0
    for story in stories:
        deliveries, rejections = story.report["sent"], story.report["rejected"]
        reported |= {delivery["message_id"] for delivery in deliveries}
        sent, rejected = sent + len(deliveries), rejected + len(rejections)
        if sorted(each["recipient"] for each in [*deliveries, *rejections]) != sorted(story.recipients):
            wrong.append(story.workflow_id)
    claim = f"arrived: all {sent} messages; {rejected} were rejected for good"
    return Finding(claim, not wrong and reported == arrived and len(reported) == sent, tuple(wrong))


def _duplicates(stories: Sequence[Story], mailbox: Sequence[Mapping[str, Any]]) -> Finding:
    """Check that only interrupted attempts caused duplicates."""
    arrivals = Counter(line["message_id"] for line in mailbox)
    lost = {message_id(step.idempotency_key): len(step.lost) for story in stories for step in story.steps.values()}
    twice = [identity for identity, count in arrivals.items() if count > 1]
    claim = f"arrived twice: {len(twice)}, by interrupted attempts; the receiver can drop them by Message-ID"
    return Finding(claim, all(arrivals[each] <= 1 + lost.get(each, 0) for each in twice))
