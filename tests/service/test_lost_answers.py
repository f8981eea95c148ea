"""Commits whose reply is lost or late: each request takes effect once, and the caller gets the true outcome."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mendflow.v1 import operator_service_pb2, workflow_pb2
from mendflow_server.store.committer import Committer
from mendflow_server.store.errors import CommitUnknown, StoreError
from mendflow_server.store.records import Batch, BatchResult, CommitOutcome, InboxKind, Message
from tests.support.promises import Evidence, Reply, broken, read_store
from tests.support.servers import serving

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_terminate_that_loses_against_the_end_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        handle = await server.client.start("holds", 0.1, id="late")
        store: Any = server.app.store
        commit = store.commit

        async def slow(batch: Any) -> Any:
            """Hold the terminate after its commit until the end is queued behind it."""
            result = await commit(batch)
            if any(message.kind is InboxKind.TERMINATE for message in batch.messages):
                while not server.app.committer._changes:  # noqa: SLF001 - no public attribute has it
                    await asyncio.sleep(0.001)
            return result

        store.commit = slow
        request = operator_service_pb2.TerminateWorkflowRequest(workflow_id="late")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.operator.TerminateWorkflow(request)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        ended = await handle.get(wait=3)
        assert ended.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED
    assert not broken(Evidence(read_store(tmp_path / "mendflow.db"), replies=[Reply("result", "late", ended)]))


class OneIsBroken:
    """A store that commits a batch and loses the reply, and then finds one message malformed."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.asked = 0

    async def commit(self, batch: Batch) -> BatchResult:
        self.asked += 1
        if self.asked == 1:
            self.kept += [change.row.workflow_id for change in batch.changes]
            raise CommitUnknown
        if batch.messages:
            raise StoreError("malformed")
        return BatchResult([CommitOutcome.CONFLICT for _ in batch.changes], [], [], [])

    async def find(self, workflow_ids: Any) -> dict[str, Any]:
        return {name: ROWS[name] for name in workflow_ids if name in self.kept}

    async def heads(self, _keys: Any) -> dict[int, Any]:
        return {}


ROWS: dict[str, Any] = {}


async def test_a_committed_change_stays_committed_when_its_batch_is_split(tmp_path: Path) -> None:
    """Use a fake store, because a real one never refuses a batch that it has committed."""
    async with serving(tmp_path) as server:
        await server.client.start("wait_for", "x", id="known")
        row = await server.app.engine.find("known")
        ROWS["known"] = row
        store: Any = OneIsBroken()
        committer = Committer(store, server.app.clock, lambda: None)
        outcomes: list[CommitOutcome] = []
        change: Any = _NewRow(row)
        committer.submit(change, lambda _, outcome: outcomes.append(outcome))
        committer.submit_message(Message(0, "known", InboxKind.SIGNAL, "r", 0, b""), lambda *_: None)
        await committer.run_once()
        await asyncio.sleep(0)
        assert outcomes == [CommitOutcome.COMMITTED]


class _NewRow:
    """A start."""

    def __init__(self, row: Any) -> None:
        self.row = row
        self.guard = None
