"""Health over HTTP, for whoever cannot ask over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from mendflow_server.health.monitor import HealthMonitor, Verdict

__all__ = ["CannotListenHttp", "HttpServer"]


class CannotListenHttp(Exception):
    """The address cannot be listened on; the message says what to do."""


class HttpServer:
    """GET /health (ready) and /health/live (alive): 200 or 503, with reasons."""

    def __init__(self, address: str, health: HealthMonitor, *, version: str, replica_id: str) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._health = health
        self._about = {"version": version, "replica_id": replica_id}
        self._runner: web.AppRunner | None = None
        #: Where it listens; of interest for an address with port 0.
        self.port = self._port

    async def start(self) -> None:
        """Listen. Raises `CannotListenHttp`."""
        app = web.Application()
        app.router.add_get("/health", self._ready)
        app.router.add_get("/health/live", self._alive)
        app.router.add_route("*", "/{path:.*}", _unknown)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, reuse_port=False)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            msg = (
                f"cannot listen for HTTP on {self._host}:{self._port}: {error.strerror or error}; choose another "
                "address with --http-address or MENDFLOW_HTTP_ADDRESS"
            )
            raise CannotListenHttp(msg) from error
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _ready(self, _: web.Request) -> web.Response:
        return self._answer(self._health.ready)

    async def _alive(self, _: web.Request) -> web.Response:
        return self._answer(self._health.alive)

    def _answer(self, verdict: Verdict) -> web.Response:
        body = {
            "status": "SERVING" if verdict.ok else "NOT_SERVING",
            "reasons": list(verdict.reasons),
            **self._about,
        }
        return web.json_response(body, status=200 if verdict.ok else 503)


async def _unknown(request: web.Request) -> web.Response:
    known = ["/health", "/health/live"]
    body = {"error": f"no {request.method} {request.path}", "paths": known}
    if request.path in known:
        return web.json_response(body, status=405, headers={"Allow": "GET, HEAD"})
    return web.json_response(body, status=404)
