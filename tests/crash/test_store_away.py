"""A store that is slow, or away when a server starts: each problem is reported, and work continues without a loss.

A test cannot make a disk slow, or make it fail at one read of a recovery. So a composition root for tests wraps the
real store, and a test decides what waits or fails and for how long.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow import Client
from mendflow.errors import ServerUnavailable
from mendflow.v1 import workflow_pb2
from mendflow_server.app import App, Parts
from mendflow_server.store.errors import CommitUnknown, StoreUnavailable
from mendflow_server.store.factory import open_store
from tests.support.files import whole_lines
from tests.support.promises import Effect, Evidence, Reply, broken, read_store
from tests.support.servers import DEFINITIONS, Server, http_health, serving, settings_for, until

if TYPE_CHECKING:
    from pathlib import Path

    from mendflow_server.store.interface import Store
    from mendflow_server.store.records import Batch, BatchResult

pytestmark = pytest.mark.proof

SUCCEEDED = workflow_pb2.WORKFLOW_STATE_SUCCEEDED
SOON = {"commit_age_limit": 0.3, "commit_patience": 0.3, "probe_interval": 0.2, "good_probes": 1}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Slow:
    """A store whose commits succeed, but wait while the gate is shut: before the disk gets them, or after."""

    def __init__(self, inner: Store, moment: str) -> None:
        self._inner = inner
        self._moment = moment
        self.gate = asyncio.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Batch) -> BatchResult:
        """Commit the batch when the gate is open."""
        if self._moment == "to the disk":
            await self.gate.wait()
        result = await self._inner.commit(batch)
        await self.gate.wait()
        return result

    async def beat(self, replica_id: str, time: int, **options: Any) -> None:
        """As `commit`."""
        await self.gate.wait()
        await self._inner.beat(replica_id, time, **options)


class Away:
    """A store that fails at one of its verbs until it is back. A write may have happened nevertheless."""

    def __init__(self, inner: Store, verb: str, *, done: bool) -> None:
        self._inner = inner
        self._verb = verb
        self._done = done
        self.back = False
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name != self._verb:
            return real

        async def failing(*args: Any, **options: Any) -> Any:
            self.asked += 1
            if not self.back and self._done:
                await real(*args, **options)
                raise CommitUnknown("it went away; bring it back")
            if not self.back:
                raise StoreUnavailable("it is away; bring it back")
            return await real(*args, **options)

        return failing


async def health_of(server: Server) -> tuple[int, list[str], int]:
    """Return the HTTP status and reasons of the health, and its gRPC status."""
    code, body = await asyncio.to_thread(http_health, f"127.0.0.1:{server.app.http_port}")
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest())
    return code, body["reasons"], reply.status


async def says(server: Server, code: int, text: str = "") -> None:
    """Wait until the health has this status, over HTTP and gRPC, and this text in a reason."""
    for _ in range(1_000):
        status, reasons, grpc_status = await health_of(server)
        if status == code and grpc_status == (SERVING if code == 200 else NOT_SERVING) and text in "\n".join(reasons):
            return
        await asyncio.sleep(0.01)
    raise AssertionError((await health_of(server), text))


def read_journal(path: Path) -> list[Effect]:
    """Return the steps' real executions. The first part of each text is the workflow id."""
    lines = [line.split(" ") for line in whole_lines(path)]
    return [Effect(text.partition("-")[0], key, int(number), once) for _, key, number, once, text in lines]


@pytest.mark.parametrize("moment", ["to the disk", "back from it"])
async def test_slow_commits_are_reported_and_start_each_workflow_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setenv("MENDFLOW_TEST_JOURNAL", str(tmp_path / "journal.txt"))
    stores: list[Slow] = []

    def slow_store(url: str, **options: Any) -> Slow:
        stores.append(Slow(open_store(url, **options), moment))
        return stores[-1]

    names = [f"slow{number}" for number in range(5)]
    replies = []
    async with (
        serving(tmp_path, parts=Parts(open_store=slow_store), **SOON) as server,
        Client(server.address, retry_for=0.0) as client,
    ):
        (store,) = stores
        await says(server, 200)
        store.gate.clear()
        answers = await asyncio.gather(
            *(client.start("three", name, id=name) for name in names), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {ServerUnavailable}
        assert all("retry with the same workflow_id" in str(answer) for answer in answers)
        await says(server, 503, "check what keeps the disk busy")
        assert (await asyncio.to_thread(http_health, f"127.0.0.1:{server.app.http_port}", "/health/live"))[0] == 200
        store.gate.set()
        await says(server, 200)
        for name in names:
            handle = await client.start("three", name, id=name)
            assert not handle.started, "it had been started"
            replies.append(Reply("started", name, (await handle.get()).uid))
            assert await handle.result() == f"{name}-1-2-3"
            replies.append(Reply("result", name, await client.get(name)))
        await server.app.drain()
    effects = read_journal(tmp_path / "journal.txt")
    assert len(effects) == 3 * len(names)
    assert not broken(Evidence(read_store(tmp_path / "mendflow.db"), effects, replies))


async def leave_behind(directory: Path) -> list[Reply]:
    """End a server without a drain, with a step in progress and a waiting workflow, and return the replies."""
    replies = []
    async with serving(directory) as server:
        for workflow_type, value, name in (("holds", 0.3, "held"), ("wait_for", "x", "waits")):
            handle = await server.client.start(workflow_type, value, id=name)
            replies.append(Reply("started", name, (await handle.get()).uid))
    return replies


@pytest.mark.parametrize(
    ("verb", "done"),
    [
        ("begin_life", False),
        ("begin_life", True),
        ("suspects", False),
        ("in_progress", False),
        ("stopped_for", False),
        ("load", False),
        ("write_suspects", False),
        ("write_suspects", True),
    ],
)
async def test_a_recovery_waits_for_a_store_that_is_away(tmp_path: Path, verb: str, *, done: bool) -> None:
    stores: list[Away] = []

    def away_store(url: str, **options: Any) -> Away:
        stores.append(Away(open_store(url, **options), verb, done=done))
        return stores[-1]

    replies = await leave_behind(tmp_path)
    async with (
        App(settings_for(tmp_path, **SOON), DEFINITIONS, parts=Parts(open_store=away_store)) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel,
        Client(f"127.0.0.1:{served.grpc_port}") as client,
    ):
        server = Server(served, channel, client)
        await says(server, 503, "bring it back")
        assert await until(lambda: stores[0].asked > 2), "it retries without end"
        stores[0].back = True
        await says(server, 200)
        await client.signal("waits", "go", "on", request_id="go")
        replies.append(Reply("signalled", "waits", "go"))
        for name in ("held", "waits"):
            ended = await client.get(name, wait=5.0)
            assert ended.state == SUCCEEDED
            replies.append(Reply("result", name, ended))
        await served.drain()
    assert not broken(Evidence(read_store(tmp_path / "mendflow.db"), replies=replies))
