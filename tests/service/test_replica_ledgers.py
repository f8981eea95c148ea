"""The crash budget's ledger, where a replica is judged and joins again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.v1 import event_pb2, workflow_pb2
from mendflow_server.app import Parts
from mendflow_server.store.errors import CommitUnknown
from mendflow_server.store.factory import open_store
from mendflow_server.store.records import Life, Suspect
from tests.store.builders import start
from tests.support.build import Around
from tests.support.servers import serving, until
from tests.support.workflow_states import in_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from mendflow_server.store.replicas import Claimed
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


class LostAnswer(Around):
    """What replicas need of a store, where the answer to the first claim is lost."""

    lost = 0

    @property
    def unknown_writes(self) -> int:
        return int(self._inner.unknown_writes) + self.lost

    async def claim_moving(self, replica_ids: Sequence[str], *, limit: int) -> Mapping[int, Claimed]:
        found: Mapping[int, Claimed] = await self._inner.claim_moving(replica_ids, limit=limit)
        if found and not self.lost:
            self.lost += 1
            message = "the answer was lost"
            raise CommitUnknown(message)
        return found


class Lossy(Around):
    """A store with such replicas."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.replicas = LostAnswer(inner.replicas)


async def test_a_crash_counts_also_when_the_answer_to_the_claim_is_lost(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.url(await postgres.new_schema())
    parts = Parts(open_store=lambda *values, **options: Lossy(open_store(*values, **options)))
    async with serving(tmp_path, parts=parts, store=url, crash_budget=1) as server:
        crashing = await joined(url, "a")
        event = event_pb2.Event(sequence=1)
        event.workflow_started.workflow_type = "echo"
        event.workflow_started.workflow_id = "o"
        event.workflow_started.input.json = '"x"'
        await start(crashing, "o", event.SerializeToString(), replica_id="a", workflow_type="echo", state=1)
        await crashing.close()
        await in_state(server.client, "o", workflow_pb2.WORKFLOW_STATE_QUARANTINED)
        assert isinstance(server.app.store.replicas, LostAnswer)
        assert server.app.store.replicas.lost
