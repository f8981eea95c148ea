"""Random batches: the store and a model of the protocol's rules give the same outcomes and have the same content."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from mendflow_server.store.factory import open_store
from mendflow_server.store.records import Batch, Change, CommitOutcome, Guard, InboxKind, Message, Row
from tests.store.builders import RUNNING, SUCCEEDED, begin, make_row

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

LIMIT = 3
IDS = ["a", "b", "c", "d"]


@dataclass
class Wanted:
    """A drawn change. Its content depends on what the model has by then."""

    workflow_id: str
    fresh: bool
    events: int
    final: bool
    stale_generation: bool
    stale_sequence: bool
    raise_generation: bool
    take: bool
    untaken: int


@dataclass
class Modelled:
    row: Row
    events: list[bytes]
    inbox: list[Message] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


wanted = st.builds(
    Wanted,
    workflow_id=st.sampled_from(IDS),
    fresh=st.booleans(),
    events=st.integers(0, 3),
    final=st.integers(0, 3).map(lambda number: number == 0),
    stale_generation=st.integers(0, 5).map(lambda number: number == 0),
    stale_sequence=st.integers(0, 5).map(lambda number: number == 0),
    raise_generation=st.booleans(),
    take=st.booleans(),
    untaken=st.integers(0, LIMIT),
)
messages = st.builds(
    Message,
    id=st.just(0),
    workflow_id=st.sampled_from([*IDS, "missing"]),
    kind=st.sampled_from(InboxKind),
    request_id=st.sampled_from(["", "", "r", "s"]),
    time=st.integers(0, 9),
    content=st.binary(max_size=4),
)
batches = st.lists(
    st.tuples(st.lists(wanted, max_size=4, unique_by=lambda each: each.workflow_id), st.lists(messages, max_size=6)),
    min_size=1,
    max_size=6,
)


class Model:
    def __init__(self) -> None:
        self.workflows: dict[str, Modelled] = {}
        self.counter = 0

    def change(self, drawn: Wanted) -> Change:
        """Return the change that the drawn one stands for."""
        known = self.workflows.get(drawn.workflow_id)
        fresh = drawn.fresh or known is None
        row = make_row(drawn.workflow_id, untaken_signals=drawn.untaken)
        guard = None
        if not fresh and known is not None:
            row.key = known.row.key
            guard = Guard(known.row.generation + drawn.stale_generation, known.row.last_sequence + drawn.stale_sequence)
            row.generation = guard.generation + drawn.raise_generation
        last = guard.last_sequence if guard else 0
        events = []
        for _ in range(drawn.events):
            self.counter += 1
            last += 1
            events.append((last, b"event %d" % self.counter))
        row.last_sequence = last
        if drawn.final:
            row.state, row.end_time = SUCCEEDED, 5
        taken = tuple(message.id for message in known.inbox) if known and drawn.take and guard else ()
        return Change(row, guard, events, consumed=taken, final=drawn.final)

    def judge_change(self, change: Change) -> CommitOutcome:
        known = self.workflows.get(change.row.workflow_id)
        if change.guard is None:
            if known:
                return CommitOutcome.ID_EXISTS
            self.workflows[change.row.workflow_id] = Modelled(change.row, [content for _, content in change.events])
            return CommitOutcome.COMMITTED
        assert known
        if change.guard != Guard(known.row.generation, known.row.last_sequence):
            return CommitOutcome.CONFLICT
        left = [message for message in known.inbox if message.id not in change.consumed]
        if change.final and left:
            return CommitOutcome.INBOX_NOT_EMPTY
        known.row, known.inbox = change.row, left
        known.events += [content for _, content in change.events]
        return CommitOutcome.COMMITTED

    def judge_message(self, message: Message, number: int) -> CommitOutcome:
        known = self.workflows.get(message.workflow_id)
        if known is None:
            return CommitOutcome.NOT_FOUND
        signal = message.kind is InboxKind.SIGNAL
        if message.request_id and message.request_id in known.seen:
            return CommitOutcome.DUPLICATE
        if known.row.state == SUCCEEDED:
            return CommitOutcome.WORKFLOW_ENDED
        signals = sum(each.kind is InboxKind.SIGNAL for each in known.inbox)
        if signal and known.row.untaken_signals + signals >= LIMIT:
            return CommitOutcome.INBOX_FULL
        known.seen.add(message.request_id)
        known.inbox.append(
            Message(number, message.workflow_id, message.kind, message.request_id, message.time, message.content)
        )
        return CommitOutcome.COMMITTED


async def run(drawn: list[tuple[list[Wanted], list[Message]]], url: str) -> None:
    store, model = open_store(url, signal_limit=LIMIT), Model()
    await store.open()
    await begin(store)
    highest = 0
    for changes, sent in drawn:
        batch = Batch([model.change(each) for each in changes], sent)
        result = await store.commit(batch)
        assert result.changes == [model.judge_change(change) for change in batch.changes]
        for message, outcome, number in zip(sent, result.messages, result.message_ids, strict=True):
            assert outcome is model.judge_message(message, number)
            assert (number > 0) == (outcome is CommitOutcome.COMMITTED)
            if number:
                assert number > highest
                highest = number
        found = await store.find(IDS)
        assert found == {name: known.row for name, known in model.workflows.items()}
        loaded = await store.load([row.key for row in found.values()])
        for each in loaded:
            known = model.workflows[each.row.workflow_id]
            assert each.events == known.events
            assert each.inbox == known.inbox
        in_progress = [known.row.key for known in model.workflows.values() if known.row.state == RUNNING or known.inbox]
        assert await store.in_progress(after_key=0, limit=100) == sorted(in_progress)
    await store.close()


@settings(max_examples=60, deadline=None)
@given(batches)
def test_the_store_follows_the_model(drawn: list[tuple[list[Wanted], list[Message]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(drawn, f"sqlite:///{Path(folder) / 'mendflow.db'}"))


@settings(max_examples=30, deadline=None)
@given(drawn=batches)
def test_the_store_in_postgresql_follows_the_model(
    postgres: Postgres, drawn: list[tuple[list[Wanted], list[Message]]]
) -> None:
    asyncio.run(run(drawn, postgres.url(postgres.schema())))
