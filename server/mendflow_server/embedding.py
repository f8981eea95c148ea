"""A server inside another asyncio program, such as a FastAPI application.

The program owns the process: its event loop, its signals and its logging. So
an embedded server installs no signal handlers and no logging, and ends when
its context does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import structlog

from mendflow import Client
from mendflow.errors import DefinitionError, MendflowError
from mendflow_server.app import App
from mendflow_server.runtime.forking import Belongings, armed
from mendflow_server.settings import load_settings
from mendflow_server.store.factory import files_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow import Workflow
    from mendflow_server.health.monitor import HealthStatus

__all__ = ["EmbeddedServer"]


class EmbeddedServer:
    """A Mendflow server as an async context manager, with a client that is connected to it.

    ``settings`` are those of `mendflow serve`, by their names in lower case (``store``, ``drain_timeout``). What is not
    given comes from the ``MENDFLOW_...`` variables. The ports are free ones on loopback, unless an address is given.

    Raise `DefinitionError` if two workflows have one name, and `SettingsError` for an invalid setting.
    """

    def __init__(self, workflows: Iterable[Workflow[Any, Any]], **settings: Any) -> None:
        self.definitions: dict[str, Workflow[Any, Any]] = {}
        for workflow in workflows:
            other = self.definitions.setdefault(workflow.name, workflow)
            if other is not workflow:
                msg = f"two workflows have the name {workflow.name!r}; give one another name: @workflow(name=...)"
                raise DefinitionError(msg)
        addresses = {"grpc_address": "127.0.0.1:0", "http_address": "127.0.0.1:0"}
        self.settings = load_settings(**(addresses | settings))
        self._stack: contextlib.AsyncExitStack | None = None
        self._app: App | None = None
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        """Open the store and serve. Recovery may still be in progress.

        Raise `StoreRefused`, `CannotListen` and `DefinitionError` as `mendflow serve` reports them, and `MendflowError`
        if it was entered before.
        """
        if self._stack is not None:
            msg = "this server was started before; make a new EmbeddedServer"
            raise MendflowError(msg)
        _log_through_logging()
        async with contextlib.AsyncExitStack() as stack:
            belongings = stack.enter_context(armed(Belongings(asyncio.get_running_loop(), ())))
            belongings.files = files_of(self.settings.store)
            self._app = app = await stack.enter_async_context(App(self.settings, self.definitions))
            belongings.ports = frozenset({app.grpc_port, app.http_port})
            belongings.connections = app.store.connections
            stack.push_async_callback(app.drain)
            self._client = await stack.enter_async_context(Client(self.grpc_address))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drain and stop, as `mendflow serve` does on SIGTERM. The next start continues what is open."""
        if self._stack is not None:
            await self._stack.aclose()

    @property
    def client(self) -> Client:
        """A client of this server."""
        self._started()
        assert self._client is not None  # noqa: S101 - it is set beside the app
        return self._client

    @property
    def grpc_address(self) -> str:
        """The address of the gRPC port, for other clients."""
        return _address(self.settings.grpc_address, self._started().grpc_port)

    @property
    def http_address(self) -> str:
        """The address of the HTTP port with /health."""
        return _address(self.settings.http_address, self._started().http_port)

    @property
    def health(self) -> HealthStatus:
        """Whether the server is ready, with the reasons if it is not."""
        return self._started().health.ready

    async def failure(self) -> None:
        """Wait until a part of the server fails, and raise what it raised. `mendflow serve` ends then."""
        await self._started().failure()

    def _started(self) -> App:
        if self._app is None:
            msg = "the server is not started; use it in `async with`"
            raise MendflowError(msg)
        return self._app


def _address(setting: str, port: int) -> str:
    return f"{setting.rpartition(':')[0]}:{port}"


def _log_through_logging() -> None:
    """Send the server's log to `logging`, unless the program has configured structlog itself."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.render_to_log_kwargs,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
