"""gRPC, served for as long as the process lives.

grpc.aio decodes a request's path in the one loop that accepts all calls, so a
single path that is not UTF-8 ends that loop: from then on nobody listens, and
nobody is told. So its end is looked for, and another server listens in its
place at once. Calls that were under way may end in the meantime.
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

#: How often to look whether it still listens, in seconds.
LOOK: Final = 0.2
#: What the calls that were under way have to end in, in seconds.
GRACE: Final = 2.0
#: How often to try for the port, which the old server may hold for a moment, and the pause between, in seconds.
TRIES: Final = 100
PAUSE: Final = 0.05


class GrpcServer:
    """Listens from the beginning; `start` serves, and `run` sees to it that it goes on."""

    def __init__(self, build: Callable[[str], tuple[grpc.aio.Server, int]], address: str) -> None:
        """Raises `CannotListen`."""
        self._build = build
        self._server, self.port = build(address)
        self._address = f"{address.rpartition(':')[0]}:{self.port}"
        self._stopping = False
        self._ending: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and cut off what is under way after so many seconds."""
        self._stopping = True
        await self._server.stop(grace)

    async def run(self) -> None:
        """Serve again whenever gRPC's own loop has died. Raises `CannotListen`."""
        while not self._stopping:
            try:
                running = await self._server.wait_for_termination(LOOK)
            except Exception as error:  # noqa: BLE001 - whatever its loop raised
                log.error("grpc_died", error=repr(error))  # noqa: TRY400 - the traceback is gRPC's own
                await self._serve_again()
            else:
                if not running:
                    return

    async def _serve_again(self) -> None:
        old = self._server
        for tried in range(1, TRIES + 1):
            if self._stopping:
                return
            try:
                self._server, _ = self._build(self._address)
                break
            except CannotListen:
                if tried == TRIES:
                    raise
                await asyncio.sleep(PAUSE)
        await self._server.start()
        ending = asyncio.get_running_loop().create_task(old.stop(GRACE))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
