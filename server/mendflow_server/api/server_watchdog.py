"""The gRPC server, replaced when its accept loop fails.

grpc.aio decodes a request's path in the one loop that accepts all calls. A single path that is not UTF-8 ends that
loop. From then on the process keeps running, but nothing accepts calls. `GrpcServer` therefore checks that the loop
still runs, and starts another server on the same port when it does not. Calls in progress may fail meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog

from mendflow_server.api.server import CannotListen

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

__all__ = ["GrpcServer"]

log = structlog.get_logger("mendflow.api")

#: How often to check that the accept loop still runs, in seconds.
CHECK_INTERVAL: Final = 0.2
#: The time that calls in progress have to end on a server that is being replaced, in seconds.
GRACE: Final = 2.0
#: The old server may hold the port for a moment: how often to try to bind it, and the pause between, in seconds.
BIND_TRIES: Final = 100
BIND_PAUSE: Final = 0.05


class GrpcServer:
    """Binds its port at once, serves from `start` on, and replaces a failed server while `run` runs.

    ``build`` makes a server that is bound to an address but not started, and returns it with its port.
    """

    def __init__(self, build: Callable[[str], tuple[grpc.aio.Server, int]], address: str) -> None:
        """Bind the port. Raise `CannotListen`."""
        self._build = build
        self._server, self.port = build(address)
        self._address = f"{address.rpartition(':')[0]}:{self.port}"
        self._stopping = False
        self._ending: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Accept calls."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and cancel those still in progress after ``grace`` seconds."""
        self._stopping = True
        await self._server.stop(grace)

    async def run(self) -> None:
        """Watch the server until it is stopped, and replace it whenever it fails. Raise `CannotListen`."""
        while not self._stopping:
            try:
                running = await self._server.wait_for_termination(CHECK_INTERVAL)
            except Exception as error:  # noqa: BLE001 - the accept loop may have raised anything
                log.error("grpc_accept_loop_ended", error=repr(error))  # noqa: TRY400 - the traceback is gRPC's own
                await self._replace()
            else:
                if not running:
                    return

    async def _replace(self) -> None:
        old = self._server
        for tries in range(1, BIND_TRIES + 1):
            if self._stopping:
                return
            try:
                self._server, _ = self._build(self._address)
                break
            except CannotListen:
                if tries == BIND_TRIES:
                    raise
                await asyncio.sleep(BIND_PAUSE)
        await self._server.start()
        ending = asyncio.get_running_loop().create_task(old.stop(GRACE))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
