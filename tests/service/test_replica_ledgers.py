"""The crash budget's ledger, where a replica is judged and joins again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server.store.factory import open_store
from mendflow_server.store.records import Life, Suspect
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from tests.support.postgres import Postgres


async def joined(url: str, name: str) -> Store:
    store = open_store(url, lease=60.0)
    await store.open()
    await store.begin_life(Life(name, 1, 1, drained=False))
    return store


async def test_a_replica_that_joins_again_leaves_its_part_of_the_ledger_to_its_judge(
    tmp_path: Path, postgres: Postgres
) -> None:
    schema = await postgres.new_schema()
    url = postgres.url(schema)

    async def ended(name: str) -> bool:
        found = await postgres.fetch(f"SELECT ended FROM {schema}.replicas WHERE replica_id = '{name}'")
        return bool(found[0][0])

    async def crash(name: str, *ledger: Suspect) -> None:
        store = await joined(url, name)
        await store.write_suspects(ledger)
        await store.close()
        for _ in range(1_000):
            if await ended(name):
                return
            await postgres.fetch("SELECT pg_sleep(0.01)")
        raise AssertionError(name)

    async with serving(tmp_path, store=url) as server:
        earlier = server.app.replica_id
        await crash("a", Suspect(7, "", 3, 1, held=True))
        judge = await joined(url, "judge")
        assert judge.replicas is not None
        peer, *_ = await judge.replicas.peers()
        while (ledger := await judge.replicas.begin_judgement(peer)) is None:  # It has renewed its lease in between.
            peer, *_ = await judge.replicas.peers()
        assert peer.replica_id == earlier
        assert [(each.key, each.evidence) for each in ledger] == [(7, 3)]
        more = [Suspect(7, "", 4, 2, held=True)]
        await judge.write_suspects(more)
        await judge.replicas.end_judgement(peer)
        assert await until(lambda: server.app.replica_id != earlier, 10)
        # The next judgement writes its ledger.
        await crash("b")
        assert await judge.suspects() == more
        await judge.beat("judge", 2, drained=True)
        await judge.close()
