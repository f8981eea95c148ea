"""How the committer handles a store's refusals. The store is scripted, because no disk fails on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mendflow_server.runtime.clock import SystemClock
from mendflow_server.store.committer import Committer
from mendflow_server.store.errors import StoreDamaged, StoreError, StoreUnavailable
from mendflow_server.store.records import BatchResult, CommitOutcome
from tests.store.builders import make_row, new

if TYPE_CHECKING:
    from mendflow_server.store.records import Batch


class Scripted:
    """A store that raises the next error scripted for a batch of this size, or commits."""

    def __init__(self, *script: tuple[int, StoreError]) -> None:
        self._script = list(script)
        self.sizes: list[int] = []

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit, or raise the next error for a batch of this size."""
        self.sizes.append(len(batch.changes))
        for index, (size, error) in enumerate(self._script):
            if size == len(batch.changes):
                del self._script[index]
                raise error
        return BatchResult([CommitOutcome.COMMITTED] * len(batch.changes), [], [], [])


async def verdicts_of(store: Any, count: int) -> tuple[list[CommitOutcome], Committer]:
    """Commit this many new workflows in one batch, and return the outcome of each."""
    committer = Committer(store, SystemClock(), lambda: None)
    outcomes: list[CommitOutcome] = []
    for number in range(count):
        committer.submit(new(make_row(f"order-{number}"), b"one"), lambda _change, outcome: outcomes.append(outcome))
    await committer.run_once()
    await committer.wait_for_capacity()  # A turn of the loop, in which the committer reports the outcomes.
    return outcomes, committer


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mendflow_server.store.committer.RETRY_PAUSE", 0.0)


@pytest.mark.parametrize("refusal", [StoreError("malformed"), StoreDamaged("damaged")])
async def test_a_refusal_ends_an_earlier_failure(refusal: StoreError) -> None:
    store = Scripted((1, StoreUnavailable("the disk is full")), (1, refusal), (1, refusal))
    (outcome,), committer = await verdicts_of(store, 1)
    assert outcome is (CommitOutcome.DAMAGED if isinstance(refusal, StoreDamaged) else CommitOutcome.CONFLICT)
    assert not committer.failure, "the store answers, so no other commit is refused"


async def test_damage_that_passes_costs_nothing() -> None:
    store = Scripted((1, StoreDamaged("damaged")))
    assert (await verdicts_of(store, 1))[0] == [CommitOutcome.COMMITTED]
    assert store.sizes == [1, 1]


async def test_only_damaged_workflows_are_given_up() -> None:
    damaged = StoreDamaged("damaged")
    store = Scripted((3, damaged), (1, damaged), (1, damaged))
    outcomes, _ = await verdicts_of(store, 3)
    assert outcomes == [CommitOutcome.DAMAGED, CommitOutcome.COMMITTED, CommitOutcome.COMMITTED]
