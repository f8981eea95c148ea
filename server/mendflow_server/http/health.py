"""The two health routes: GET /health (ready) and GET /health/live (alive)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow_server.health.monitor import HealthMonitor, HealthStatus

__all__ = ["LIVE_PATH", "READY_PATH", "HealthRoutes"]

READY_PATH: Final = "/health"
LIVE_PATH: Final = "/health/live"


class HealthRoutes:
    """Serves 200 or 503, with a JSON object of the status, reasons and warnings, and of the server's ids."""

    def __init__(self, monitor: HealthMonitor, *, version: str, replica_id: Callable[[], str]) -> None:
        self._monitor = monitor
        self._version = version
        self._replica_id = replica_id

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, for an aiohttp application."""
        return [web.get(READY_PATH, self._ready), web.get(LIVE_PATH, self._alive)]

    async def _ready(self, _: web.Request) -> web.Response:
        return self._response(self._monitor.ready)

    async def _alive(self, _: web.Request) -> web.Response:
        return self._response(self._monitor.alive)

    def _response(self, health: HealthStatus) -> web.Response:
        body = {
            "status": "SERVING" if health.ok else "NOT_SERVING",
            "reasons": list(health.reasons),
            "warnings": list(health.warnings),
            "version": self._version,
            "replica_id": self._replica_id(),
        }
        return web.json_response(body, status=200 if health.ok else 503)
