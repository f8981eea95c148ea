"""grpc.health.v1: the state of health over gRPC, by service name."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LIVENESS", "READY_NAMES", "HealthServicer"]

#: The service name that answers whether the process is alive.
LIVENESS: Final = "liveness"
#: The service names that answer whether the server is ready. The first one stands for the whole server.
READY_NAMES: Final = ("", "mendflow.v1.WorkflowService", "mendflow.v1.OperatorService")

_Status = health_pb2.HealthCheckResponse
#: The most characters of an unknown service name that a refusal quotes.
_LONGEST_NAME: Final = 100


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Serves one status for each name. A watcher receives its changes until it disconnects.

    grpcio's own servicer is not used. When one watcher of a name disconnects, it loses the later changes of the others.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, int] = dict.fromkeys((*READY_NAMES, LIVENESS), _Status.NOT_SERVING)
        self._watchers: set[asyncio.Event] = set()

    def set(self, service: str, *, serving: bool) -> None:
        """Set the status of a service, and notify its watchers when it has changed."""
        status = _Status.SERVING if serving else _Status.NOT_SERVING
        if self._statuses.get(service) != status:
            self._statuses[service] = status
            for watcher in self._watchers:
                watcher.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:  # noqa: N802 - the rpc's name
        """Return the status of a service. Abort with NOT_FOUND when no service has that name."""
        status = self._statuses.get(request.service)
        if status is None:
            known = ", ".join(repr(name) for name in self._statuses)
            # Truncated, since a status that exceeds the limit of the headers breaks the stream.
            name = request.service if len(request.service) <= _LONGEST_NAME else f"{request.service[:_LONGEST_NAME]}…"
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {name!r}; known are {known}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802 - the rpc's name
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the status of a service, then each change. Yield SERVICE_UNKNOWN when no service has that name."""
        del context
        changed = asyncio.Event()
        self._watchers.add(changed)
        last = None
        try:
            while True:
                changed.clear()
                status = self._statuses.get(request.service, _Status.SERVICE_UNKNOWN)
                if status != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await changed.wait()
        finally:
            self._watchers.discard(changed)
