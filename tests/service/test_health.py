"""Honest health, over gRPC and over HTTP."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc
from mendflow_server.health.monitor import HealthStatus
from tests.support.servers import Server, serving

if TYPE_CHECKING:
    from pathlib import Path

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def stub_of(server: Server) -> Any:
    return health_pb2_grpc.HealthStub(server.channel)


async def get(server: Server, path: str) -> tuple[int, dict[str, Any]]:
    def ask() -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.app.http_port}{path}", timeout=5) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    return await asyncio.to_thread(ask)


async def ready(server: Server) -> None:
    while not server.app.health.ready.ok:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("service", ["", "mendflow.v1.WorkflowService", "mendflow.v1.OperatorService", "liveness"])
async def test_check_returns_a_status_for_each_name(server: Server, service: str) -> None:
    await ready(server)
    reply = await stub_of(server).Check(health_pb2.HealthCheckRequest(service=service))
    assert reply.status == SERVING


async def test_an_unknown_service_is_not_found(server: Server) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub_of(server).Check(health_pb2.HealthCheckRequest(service="unknown"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    call = stub_of(server).Watch(health_pb2.HealthCheckRequest(service="unknown"))
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    call.cancel()


async def test_http_returns_the_same_health(server: Server) -> None:
    await ready(server)
    status, body = await get(server, "/health")
    assert (status, body["status"], body["reasons"]) == (200, "SERVING", [])
    assert body["replica_id"] == server.app.replica_id
    assert (await get(server, "/health/live"))[0] == 200
    assert (await get(server, "/other"))[0] == 404


async def test_the_server_info_has_the_reasons_of_the_health(server: Server) -> None:
    await ready(server)
    info = workflow_service_pb2_grpc.WorkflowServiceStub(server.channel).GetServerInfo
    assert list((await info(workflow_service_pb2.GetServerInfoRequest())).health_reasons) == []
    server.app.health.ready = HealthStatus(ok=False, reasons=("the store is full",), warnings=("one attempt hangs",))
    found = await info(workflow_service_pb2.GetServerInfoRequest())
    assert (list(found.health_reasons), list(found.health_warnings)) == (["the store is full"], ["one attempt hangs"])


async def test_a_drain_is_reported_to_every_watcher_though_another_left(tmp_path: Path) -> None:
    async with serving(tmp_path, drain_timeout=0.5) as server:
        await ready(server)
        calls = [stub_of(server).Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for call in calls:
            assert (await call.read()).status == SERVING
        calls[0].cancel()
        # An attempt keeps the drain busy for a moment.
        await server.client.start("holds", 30.0, id="subject")
        draining = asyncio.create_task(server.app.drain())
        for call in calls[1:]:
            assert (await call.read()).status == NOT_SERVING
        status, body = await get(server, "/health")
        assert status == 503
        assert "the server is shutting down" in body["reasons"]
        assert (await get(server, "/health/live"))[0] == 200, "draining is no reason to be killed"
        await draining


async def test_a_store_that_does_not_commit_makes_it_not_ready_but_alive(tmp_path: Path) -> None:
    async with serving(tmp_path, commit_age_limit=0.2, probe_interval=0.1, good_probes=2) as server:
        await ready(server)
        app = server.app
        # The age of a waiting batch, as with a full disk.
        app.committer.uncommitted_since = app.clock.monotonic() - 1.0
        app.committer.failure = "the disk is full"
        app.health.probe()
        status, body = await get(server, "/health")
        assert status == 503
        assert any("has been pending" in reason for reason in body["reasons"])
        assert "the disk is full" in body["reasons"]
        assert (await get(server, "/health/live"))[0] == 200
        app.committer.uncommitted_since, app.committer.failure = None, ""
        app.committer.last_commit = app.clock.monotonic()
        app.health.probe()
        assert not app.health.ready.ok, "one good probe is not enough"
        app.health.probe()
        assert app.health.ready.ok
