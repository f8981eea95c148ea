"""The HTTP server, for clients that cannot ask for the health over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mendflow.addresses import split_address
from mendflow_server.http.health import LIVE_PATH, READY_PATH, HealthRoutes

if TYPE_CHECKING:
    from mendflow_server.health.monitor import HealthMonitor

__all__ = ["CannotListenHttp", "HttpServer"]

_PATHS = [READY_PATH, LIVE_PATH]


class CannotListenHttp(Exception):
    """The server cannot listen on its address. The message says what to do."""


class HttpServer:
    """Serves the health routes; refuses any other path with 404 and any other method with 405."""

    def __init__(self, address: str, health: HealthMonitor, *, version: str, replica_id: str) -> None:
        self._host, self._port = split_address(address)
        self._health = HealthRoutes(health, version=version, replica_id=replica_id)
        self._runner: web.AppRunner | None = None
        #: The port that the server listens on; after `start` it is never 0.
        self.port = self._port

    async def start(self) -> None:
        """Listen. Raise `CannotListenHttp`."""
        app = web.Application()
        app.router.add_routes(self._health.routes())
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
        """Close the port and end open requests. May be called again."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


async def _unknown(request: web.Request) -> web.Response:
    if request.path in _PATHS:
        body = {"error": f"method {request.method} is not allowed for {request.path}", "paths": _PATHS}
        return web.json_response(body, status=405, headers={"Allow": "GET, HEAD"})
    return web.json_response({"error": f"path {request.path} not found", "paths": _PATHS}, status=404)
