"""Health over HTTP, as an orchestrator, a load balancer or curl sees it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from mendflow_server.health.monitor import HealthInputs, HealthMonitor
from mendflow_server.http.server import CannotListenHttp, HttpServer
from mendflow_server.runtime.clock import SystemClock
from mendflow_server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GOOD = HealthInputs(
    oldest_uncommitted_age=None,
    last_commit_age=0.0,
    last_tick_age=0.0,
    recovered=True,
    draining=False,
    store_failure="",
)
ABOUT = {"version": "1.2.3", "replica_id": "here"}


class Health:
    """A server whose signals the test sets."""

    def __init__(self, address: str) -> None:
        self.signals = GOOD
        self.monitor = HealthMonitor(SystemClock(), load_settings(), lambda: self.signals)
        self.server = HttpServer(address, self.monitor, version="1.2.3", replica_id=lambda: "here")

    async def ask(self, path: str, method: str = "GET") -> tuple[int, dict[str, Any], Any]:
        self.monitor.probe()
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url) as reply:
            body = await reply.json() if method != "HEAD" else {}
            return reply.status, body, reply.headers


@pytest.fixture
async def health() -> AsyncIterator[Health]:
    running = Health("127.0.0.1:0")
    await running.server.start()
    yield running
    await running.server.stop()


@pytest.mark.parametrize("path", ["/health", "/health/live"])
async def test_all_well_is_200(health: Health, path: str) -> None:
    status, body, headers = await health.ask(path)
    assert (status, body) == (200, {"status": "SERVING", "reasons": [], "warnings": [], **ABOUT})
    assert headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize(
    ("change", "reason", "live"),
    [
        ({"draining": True}, "shutting down", 200),
        ({"recovered": False}, "recovery in progress", 200),
        ({"oldest_uncommitted_age": 60.0, "store_failure": "the disk is full"}, "the disk is full", 200),
        ({"last_tick_age": 31.0}, "has not ticked", 503),
    ],
)
async def test_ready_and_alive_have_separate_answers(
    health: Health, change: dict[str, Any], reason: str, live: int
) -> None:
    health.signals = dataclasses.replace(GOOD, **change)
    status, body, _ = await health.ask("/health")
    assert (status, body["status"]) == (503, "NOT_SERVING")
    assert any(reason in each for each in body["reasons"])
    status, body, _ = await health.ask("/health/live")
    assert (status, body["status"]) == (live, "SERVING" if live == 200 else "NOT_SERVING")
    assert bool(body["reasons"]) is (live == 503)


@pytest.mark.parametrize(("draining", "expected"), [(False, 200), (True, 503)])
async def test_head_returns_the_same_without_a_body(health: Health, *, draining: bool, expected: int) -> None:
    health.signals = dataclasses.replace(GOOD, draining=draining)
    assert (await health.ask("/health", "HEAD"))[0] == expected


@pytest.mark.parametrize("path", ["/", "/healthz", "/health/", "/health/live/more", "/a%20b"])
async def test_an_unknown_path_is_404_and_names_the_known_ones(health: Health, path: str) -> None:
    status, body, _ = await health.ask(path)
    assert status == 404
    assert body["paths"] == ["/health", "/health/live"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_another_method_is_405_and_names_the_allowed_ones(health: Health, method: str) -> None:
    status, body, headers = await health.ask("/health", method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"
    assert method in body["error"]


async def test_a_port_in_use_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotListenHttp, match=rf"127\.0\.0\.1:{port}.*MENDFLOW_HTTP_ADDRESS"):
            await Health(f"127.0.0.1:{port}").server.start()


async def test_after_a_stop_the_port_is_free(health: Health) -> None:
    port = health.server.port
    await health.server.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await health.ask("/health")
    again = Health(f"127.0.0.1:{port}")
    await again.server.start()
    assert (await again.ask("/health"))[0] == 200
    await again.server.stop()
    await again.server.stop()


async def answer_to(server: HttpServer, *parts: bytes) -> bytes:
    """Send bytes, and return what the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await reader.read()
    finally:
        writer.close()


MALFORMED = {
    "words": b"come in\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100750100007103038f") + bytes(range(97)),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "zeros": bytes(64),
    "a long path": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n",
    "a long header": b"GET /health HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(1_000)) + b"\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nHost: here\r\nnothing\r\n\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "an odd chunk": b"POST /health HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a version of the future": b"GET /health HTTP/9.9\r\n\r\n",
    "malformed bytes after a request": b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n\x00\x00\x00\x00\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_bytes_that_are_no_request_are_refused_with_at_most_one_line_in_the_log(
    health: Health, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.INFO)
    with capture_logs() as lines:
        answer = await asyncio.wait_for(answer_to(health.server, sent), 10)
    assert b"HTTP/1.1 400 " in answer or b"HTTP/1.0 400 " in answer
    assert len(lines) + len(caplog.records) <= 1
    assert not [record for record in caplog.records if record.exc_info]
    assert not [line for line in lines if line.get("exc_info")]
    assert (await health.ask("/health"))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost:"], ids=["nothing", "half a request"])
async def test_client_that_does_not_finish_its_request_loses_its_connection(health: Health, sent: bytes) -> None:
    slow = HttpServer("127.0.0.1:0", health.monitor, version="1", replica_id=lambda: "here", connection_limit=0.05)
    await slow.start()
    try:
        assert await asyncio.wait_for(answer_to(slow, sent), 10) == b""
    finally:
        await slow.stop()
