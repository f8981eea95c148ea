"""Messages: their outcomes and order, and the race with the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.records import CommitOutcome, InboxKind, Message
from tests.store.builders import cancel, commit, end, follow, make_row, new, send, signal, start

if TYPE_CHECKING:
    from mendflow_server.store.interface import Store

LIMIT = 1_000


async def test_messages_are_in_the_order_of_their_commits(store: Store) -> None:
    row = await start(store)
    other = await start(store, "order-2")
    sent = [
        Message(0, "order-1", kind, f"request-{number}", number, b"\x00%d" % number)
        for number, kind in enumerate([InboxKind.SIGNAL, InboxKind.CANCEL, InboxKind.SIGNAL, InboxKind.TERMINATE])
    ]
    first = await commit(store, messages=(sent[0], signal("order-2"), sent[1]))
    second = await commit(store, messages=tuple(sent[2:]))
    assert first.message_keys == [row.key, other.key, row.key]
    ids = [first.message_ids[0], first.message_ids[2], *second.message_ids]
    assert ids == sorted(set(ids))
    both = await store.load([other.key, row.key])
    assert [message.id for message in both[1].inbox] == ids
    for kept, message in zip(both[1].inbox, sent, strict=True):
        message_again = Message(
            kept.id, message.workflow_id, message.kind, message.request_id, message.time, message.content
        )
        assert kept == message_again
    assert len(both[0].inbox) == 1


async def test_an_inbox_read_alone_equals_the_loaded_one(store: Store) -> None:
    row = await start(store)
    other = await start(store, "order-2")
    sent = [signal(content=b"1"), signal("order-2", content=b"2"), cancel(), signal(request_id="a", content=b"\x00")]
    ids = (await commit(store, messages=tuple(sent))).message_ids
    loaded, loaded_other = await store.load([row.key, other.key])
    assert await store.read_inbox(row.key) == loaded.inbox
    assert await store.read_inbox(other.key) == loaded_other.inbox
    assert [message.content for message in loaded.inbox] == [b"1", b"", b"\x00"]
    await commit(store, follow(row, b"taken", consumed=(ids[0], ids[3])))
    assert [message.id for message in await store.read_inbox(row.key)] == [ids[2]]


async def test_an_inbox_of_no_workflow_is_empty(store: Store) -> None:
    row = await start(store)
    assert await store.read_inbox(row.key) == []
    assert await store.read_inbox(999) == []


async def test_a_message_for_an_unknown_workflow_is_missing(store: Store) -> None:
    result = await commit(store, messages=(signal("missing"), cancel("missing")))
    assert result.messages == [CommitOutcome.NOT_FOUND, CommitOutcome.NOT_FOUND]
    assert result.message_keys == [0, 0]
    assert result.message_ids == [0, 0]


async def test_a_message_finds_the_workflow_that_its_own_batch_starts(store: Store) -> None:
    row = make_row()
    result = await commit(store, new(row, b"one"), messages=(signal(),))
    assert result.messages == [CommitOutcome.COMMITTED]
    assert result.message_keys == [row.key]


async def test_a_signal_sent_twice_is_one(store: Store) -> None:
    row = await start(store)
    await start(store, "order-2")
    result = await commit(
        store, messages=(signal(request_id="a"), signal(request_id="a"), signal("order-2", request_id="a"))
    )
    assert result.messages == [CommitOutcome.COMMITTED, CommitOutcome.DUPLICATE, CommitOutcome.COMMITTED]
    assert result.message_keys[1] == row.key
    assert result.message_ids[1] == 0
    assert await send(store, signal(), signal()) == [CommitOutcome.COMMITTED, CommitOutcome.COMMITTED]


async def test_a_repeated_signal_is_recognized_after_it_was_taken_and_after_the_end(store: Store) -> None:
    row = await start(store)
    result = await commit(store, messages=(signal(request_id="a"),))
    await commit(store, follow(row, b"taken", consumed=tuple(result.message_ids)))
    assert (await store.load([row.key]))[0].inbox == []
    assert await send(store, signal(request_id="a")) == [CommitOutcome.DUPLICATE]
    await commit(store, end(row))
    assert await send(store, signal(request_id="a")) == [CommitOutcome.DUPLICATE]


async def test_after_the_end_messages_are_refused(store: Store) -> None:
    row = await start(store)
    assert (await commit(store, end(row), messages=(signal(),))).messages == [CommitOutcome.WORKFLOW_ENDED]
    assert await send(store, signal(request_id="a"), cancel()) == [
        CommitOutcome.WORKFLOW_ENDED,
        CommitOutcome.WORKFLOW_ENDED,
    ]
    assert (await store.load([row.key]))[0].inbox == []
    # A refused signal is not recorded, so a later workflow of this id may get it.
    assert await send(store, signal(request_id="a")) == [CommitOutcome.WORKFLOW_ENDED]


async def test_an_end_waits_for_what_came_before_it(store: Store) -> None:
    row = await start(store)
    ids = (await commit(store, messages=(signal(), cancel()))).message_ids
    too_early = make_row(key=row.key, last_sequence=2)
    assert (await commit(store, end(too_early, consumed=(ids[0],)))).changes == [CommitOutcome.INBOX_NOT_EMPTY]
    (loaded,) = await store.load([row.key])
    assert [message.id for message in loaded.inbox] == ids
    assert loaded.row == row
    assert (await commit(store, end(row, consumed=tuple(ids)))).changes == [CommitOutcome.COMMITTED]


async def test_a_change_that_is_refused_takes_nothing(store: Store) -> None:
    row = await start(store)
    ids = (await commit(store, messages=(signal(),))).message_ids
    stale = make_row(key=row.key, generation=3, last_sequence=2)
    assert (await commit(store, follow(stale, b"x", consumed=tuple(ids)))).changes == [CommitOutcome.CONFLICT]
    assert len((await store.load([row.key]))[0].inbox) == 1


async def test_a_workflow_takes_no_message_of_another(store: Store) -> None:
    row, other = await start(store), await start(store, "order-2")
    ids = (await commit(store, messages=(signal(),))).message_ids
    await commit(store, follow(other, b"x", consumed=tuple(ids)))
    assert len((await store.load([row.key]))[0].inbox) == 1


@pytest.mark.parametrize("untaken", [0, 1, 400])
async def test_signals_are_limited_and_commands_are_not(store: Store, untaken: int) -> None:
    row = await start(store, untaken_signals=untaken)
    room = LIMIT - untaken
    outcomes = await send(store, cancel(), *[signal() for _ in range(room - 1)])
    assert set(outcomes) == {CommitOutcome.COMMITTED}
    result = await commit(store, messages=(signal(request_id="a"), signal(request_id="b"), signal(request_id="a")))
    assert result.messages == [CommitOutcome.COMMITTED, CommitOutcome.INBOX_FULL, CommitOutcome.DUPLICATE]
    assert result.message_ids[1] == 0
    assert await send(store, cancel()) == [CommitOutcome.COMMITTED]
    # A refused signal may be sent again once there is room.
    taken = (await store.load([row.key]))[0].inbox[1].id
    await commit(store, follow(row, b"taken", consumed=(taken,)))
    assert await send(store, signal(request_id="b")) == [CommitOutcome.COMMITTED]


@pytest.mark.parametrize("kind", [InboxKind.CANCEL, InboxKind.RESUME, InboxKind.TERMINATE])
async def test_a_repeated_command_is_recognized(store: Store, kind: InboxKind) -> None:
    row = await start(store)
    command = Message(0, "order-1", kind, "auto-1", 5_000, b"")
    assert await send(store, command, command) == [CommitOutcome.COMMITTED, CommitOutcome.DUPLICATE]
    inbox = (await store.load([row.key]))[0].inbox
    await commit(store, follow(row, b"taken", consumed=tuple(message.id for message in inbox)))
    assert await send(store, command) == [CommitOutcome.DUPLICATE]
    assert (await store.load([row.key]))[0].inbox == []
