"""The HTTP server, for clients that cannot ask for the health over gRPC."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mendflow.addresses import split_address
from mendflow_server.http.health import LIVE_PATH, READY_PATH, HealthRoutes

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.health.monitor import HealthMonitor

__all__ = ["CannotListenHttp", "HttpServer"]

log = structlog.get_logger("mendflow.http")

_PATHS = [READY_PATH, LIVE_PATH]
#: The most time that a connection is kept, in seconds. An answer takes milliseconds; a client may connect again.
CONNECTION_LIMIT: Final = 60.0
#: The most characters of an error in the log.
_LONGEST: Final = 200


class CannotListenHttp(Exception):
    """The server cannot listen on its address. The message says what to do."""


class HttpServer:
    """Serves the health routes.

    It refuses any other path with 404, any other method with 405, and what is no
    HTTP request with 400. It closes a connection after ``connection_limit``
    seconds, whatever its client does.
    """

    def __init__(
        self,
        address: str,
        health: HealthMonitor,
        *,
        version: str,
        replica_id: Callable[[], str],
        connection_limit: float = CONNECTION_LIMIT,
    ) -> None:
        self._host, self._port = split_address(address)
        self._health = HealthRoutes(health, version=version, replica_id=replica_id)
        self._connection_limit = connection_limit
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        #: The port that the server listens on; after `start` it is never 0.
        self.port = self._port

    async def start(self) -> None:
        """Listen. Raise `CannotListenHttp`."""
        app = web.Application()
        app.router.add_routes(self._health.routes())
        app.router.add_route("*", "/{path:.*}", _unknown)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, logger=_errors())
        await runner.setup()
        loop, server = asyncio.get_running_loop(), cast("web.Server", runner.server)

        def connect() -> asyncio.Protocol:
            connection = server()
            loop.call_later(self._connection_limit, connection.force_close)
            return connection

        try:
            listener = await loop.create_server(connect, self._host, self._port)
        except OSError as error:
            await runner.cleanup()
            msg = (
                f"cannot listen for HTTP on {self._host}:{self._port}: {error.strerror or error}; choose another "
                "address with --http-address or MENDFLOW_HTTP_ADDRESS"
            )
            raise CannotListenHttp(msg) from error
        self._runner, self._listener = runner, listener
        self.port = listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port and end open requests. May be called again."""
        if self._runner is not None and self._listener is not None:
            self._listener.close()
            await self._runner.cleanup()
            self._runner = self._listener = None


def _errors() -> logging.Logger:
    """Return the logger for what aiohttp reports: bytes that are no request are one line without a traceback."""
    logger = logging.getLogger("mendflow.http.server")
    logger.addFilter(_log_malformed)  # The same filter is added once only.
    return logger


def _log_malformed(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    words = " ".join(str(error).split())[:_LONGEST]
    log.info("http_request_malformed", error=words)
    return False


async def _unknown(request: web.Request) -> web.Response:
    if request.path in _PATHS:
        body = {"error": f"method {request.method} is not allowed for {request.path}", "paths": _PATHS}
        return web.json_response(body, status=405, headers={"Allow": "GET, HEAD"})
    return web.json_response({"error": f"path {request.path} not found", "paths": _PATHS}, status=404)
