"""Several replicas of one schema: leases, judgements, the ledger of each, and their crash markers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.errors import ReplicaFenced
from mendflow_server.store.factory import open_store
from mendflow_server.store.records import Batch, CommitOutcome, Life, Suspect
from mendflow_server.store.replicas import Claimed
from tests.store.builders import follow, start

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof


async def test_a_replica_whose_end_is_judged_is_fenced(postgres: Postgres, schema: str) -> None:
    first, second = open_store(postgres.url(schema)), open_store(postgres.url(schema))
    for store, name in ((first, "replica-a"), (second, "replica-b")):
        await store.open()
        await store.begin_life(Life(name, 1, 1, drained=False))
    row = await start(first)
    assert first.replicas is not None
    assert second.replicas is not None
    peers = await second.replicas.peers()
    assert [(peer.replica_id, peer.has_lock, peer.has_lease) for peer in peers] == [
        ("replica-a", True, True),
        ("replica-b", True, True),
    ]
    await first.beat("replica-a", 2)
    assert await second.replicas.begin_judgement(peers[0]) is None, "it has renewed its lease"
    (ended, _) = await second.replicas.peers()
    assert await second.replicas.begin_judgement(ended) == []
    assert await second.replicas.claim_moving(["replica-a"], limit=10) == {row.key: Claimed("replica-a", 2, 2)}
    with pytest.raises(ReplicaFenced, match="another replica continues the workflows of replica replica-a"):
        await first.beat("replica-a", 3)
    # It can neither write nor claim.
    result = await first.commit(Batch([follow(row, b"three")]))
    assert result.changes == [CommitOutcome.CONFLICT]
    assert await first.replicas.claim_keys([row.key]) == {}
    await second.replicas.end_judgement(ended)
    # It joins again, and what it has then is its own.
    await first.begin_life(Life("replica-c", 4, 4, drained=False))
    await first.beat("replica-c", 5)
    assert [peer.replica_id for peer in await first.replicas.peers()] == ["replica-b", "replica-c"]
    for store in (first, second):
        await store.close()


async def test_a_judgement_that_is_repeated_or_interrupted_loses_no_ledger(postgres: Postgres) -> None:
    schema = await postgres.new_schema()
    stores = [open_store(postgres.url(schema)) for _ in range(3)]
    for number, store in enumerate(stores):
        await store.open()
        await store.begin_life(Life(f"replica-{number}", 1, 1, drained=False))
    first, second, third = stores
    ledger = [Suspect(1, "charge", 2, 1, held=True)]
    await first.write_suspects(ledger)
    assert second.replicas is not None
    assert third.replicas is not None
    ended, *_ = await second.replicas.peers()
    # The outcome of the first try was unknown, so the judge tries again.
    assert await second.replicas.begin_judgement(ended) == ledger
    ended, judge, _ = await second.replicas.peers()
    assert await second.replicas.begin_judgement(ended) == ledger
    # The judge is judged as well. From then on it changes nothing.
    assert await third.replicas.begin_judgement(judge) == []
    await second.write_suspects([])
    await second.write_suspects([Suspect(1, "charge", 1, 0, held=False)])
    await second.replicas.end_judgement(ended)
    assert await third.replicas.begin_judgement(ended) == ledger
    more = [Suspect(1, "charge", 3, 2, held=True)]
    await third.write_suspects(more)
    for each in (ended, judge):
        await third.replicas.end_judgement(each)
    assert await third.suspects() == more
    assert [peer.replica_id for peer in await third.replicas.peers()] == ["replica-2"]
    for store in stores:
        await store.close()


async def test_a_judgement_ends_what_is_not_suspected_any_more(postgres: Postgres) -> None:
    schema = await postgres.new_schema()
    first, second = open_store(postgres.url(schema)), open_store(postgres.url(schema))
    for store, name in ((first, "replica-a"), (second, "replica-b")):
        await store.open()
        await store.begin_life(Life(name, 1, 1, drained=False))
    await first.write_suspects([Suspect(1, "", 1, 0, held=False)])
    assert second.replicas is not None
    ended, _ = await second.replicas.peers()
    await second.replicas.begin_judgement(ended)
    await second.write_suspects([])
    await second.replicas.end_judgement(ended)
    assert await postgres.fetch(f"SELECT key FROM {schema}.suspects") == []
    for store in (first, second):
        await store.close()


async def test_each_replica_has_a_crash_marker_that_only_this_machine_reads(postgres: Postgres, schema: str) -> None:
    here = os.uname().nodename
    stores = [open_store(postgres.url(schema)) for _ in range(3)]
    for number, (store, machine) in enumerate(zip(stores, (here, "other.machine", here), strict=True)):
        await store.open()
        await store.begin_life(Life(f"{machine}-1-{number}", 1, 1, drained=False))
    paths = [store.crash_marker_path for store in stores]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert path is not None
        path.write_bytes(b"left")
    shared = stores[2].replicas
    assert shared is not None
    mine, other, _ = await shared.peers()
    assert shared.crash_marker_of(mine) == paths[0]
    assert shared.crash_marker_of(other) is None
    # The judge removes what it has read, and a new replica what is of no use.
    assert await shared.begin_judgement(mine) == []
    await shared.end_judgement(mine)
    assert paths[0] is not None
    assert not paths[0].exists()
    await stores[2].beat(f"{here}-1-2", 2, drained=True)
    for store in stores:
        await store.close()
    again = open_store(postgres.url(schema))
    await again.open()
    assert paths[2] is not None
    assert not paths[2].exists()
    await again.close()
