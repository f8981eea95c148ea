"""Purging in PostgreSQL: nothing of a purged workflow is left, in portions, also when a server ends in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.factory import open_store
from mendflow_server.store.postgres import purging
from mendflow_server.store.records import Alert, PurgeOutcome
from tests.store.builders import commit, end, everything, send, signal, start

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

TABLES = ("workflows", "labels", "events", "inbox", "signal_requests", "heartbeats", "alerts", "suspects", "purged")


async def counts(postgres: Postgres, schema: str) -> dict[str, int]:
    return {name: (await postgres.fetch(f"SELECT count(*) FROM {schema}.{name}"))[0][0] for name in TABLES}


@pytest.mark.parametrize("label", ["a", 'quote"d', "ü\u2028", "", "back\\slash"])
async def test_nothing_of_a_purged_workflow_is_left_and_its_id_begins_anew(postgres: Postgres, label: str) -> None:
    schema = await postgres.new_schema()
    store = open_store(postgres.url(schema))
    await store.open()
    row = await everything(store, "order-1", label)
    assert (await store.purge("order-1")).outcome is PurgeOutcome.PURGED
    found = await counts(postgres, schema)
    assert (found["events"], found["purged"], found["workflows"], found["labels"]) == (4, 1, 0, 0)
    # No reader sees a part of them.
    assert await store.find(["order-1"]) == {}
    assert await store.snapshot("order-1") is None
    assert await store.load([row.key]) == []
    assert await store.read_events(row.key, 0, limit=9, max_bytes=9_999) == []
    again = await start(store, "order-1", labels={"team": label})
    assert again.key > row.key
    assert [outcome.name for outcome in await send(store, signal("order-1", "r1"))] == ["COMMITTED"]
    while await store.reclaim():
        pass
    assert (await store.load([again.key]))[0].events == [b"one", b"two"]
    await store.close()
    assert await counts(postgres, schema) == {
        **dict.fromkeys(TABLES, 0), "workflows": 1, "labels": 1, "events": 2, "inbox": 1, "signal_requests": 1,
    }  # fmt: skip


async def test_large_purges_are_done_in_portions_over_a_restart(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "ROWS_AT_ONCE", 10)
    schema = await postgres.new_schema()
    store = open_store(postgres.url(schema))
    await store.open()
    row = await start(store, "order-1", *(b"%d" % number for number in range(35)))
    await send(store, *(signal(request_id=f"r{number}") for number in range(25)))
    consumed = tuple(message.id for message in await store.read_inbox(row.key))
    alerts = tuple(Alert(1, "many", 1, str(number)) for number in range(15))
    await commit(store, end(row, consumed=consumed, alerts=alerts))
    await store.purge("order-1")
    assert await store.reclaim()
    found = await counts(postgres, schema)
    assert (found["events"], found["signal_requests"], found["alerts"], found["purged"]) == (26, 15, 5, 1)
    await store.close()
    store = open_store(postgres.url(schema))
    await store.open()
    while await store.reclaim():
        pass
    await store.close()
    assert await counts(postgres, schema) == dict.fromkeys(TABLES, 0)
