"""`mendflow serve`."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import TYPE_CHECKING, Any

import click

from mendflow.errors import DefinitionError
from mendflow.workflow import Workflow
from mendflow_server import app
from mendflow_server.api.serving import CannotListen
from mendflow_server.http import CannotListenHttp
from mendflow_server.logs import configure_logs
from mendflow_server.settings import SettingsError, load_settings
from mendflow_server.store.protocol import StoreRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow_server.settings import Settings

__all__ = ["serve"]


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--store", metavar="URL", help="Where workflows are kept: sqlite:///relative.db or sqlite:////absolute.db."
)
@click.option("--grpc-address", metavar="HOST:PORT", help="Where gRPC is served (127.0.0.1:50051).")
@click.option("--http-address", metavar="HOST:PORT", help="Where /health is served (127.0.0.1:3000).")
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Serve beyond loopback without TLS: whoever reaches the port can start, read and end every workflow.",
)
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error (info).")
@click.option("--log-format", metavar="FORMAT", help="json, console or auto (auto).")
def serve(modules: tuple[str, ...], **options: Any) -> None:
    """Serve the workflows of Python modules until SIGTERM, then drain.

    Every setting is also a variable MENDFLOW_...; docs/operating.md lists them.
    """
    try:
        settings = load_settings(**options)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    configure_logs(settings)
    sys.exit(run(settings, load_workflows(modules)))


def run(settings: Settings, definitions: dict[str, Workflow[Any, Any]]) -> int:
    """Serve; answer the exit code. What keeps the server from starting is told in one line."""
    try:
        return asyncio.run(app.serve(settings, definitions))
    except (StoreRefused, CannotListen, CannotListenHttp, DefinitionError) as error:
        click.echo(f"error: {error}", err=True)
        return 1


def load_workflows(modules: Iterable[str]) -> dict[str, Workflow[Any, Any]]:
    """Import modules (the working directory comes first) and answer their workflows by name."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: dict[str, Workflow[Any, Any]] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                msg = f"there is no module {name!r} here or in the environment; name it as in `import {name}`"
                raise click.UsageError(msg) from None
            raise
        mine = [thing for thing in vars(module).values() if isinstance(thing, Workflow)]
        if not mine:
            msg = f"module {name!r} has no function decorated with @workflow"
            raise click.UsageError(msg)
        for definition in mine:
            other = found.setdefault(definition.name, definition)
            if other is not definition:
                msg = (
                    f"two workflows are named {definition.name!r}: {other.function.__module__}."
                    f"{other.function.__qualname__} and {definition.function.__module__}."
                    f"{definition.function.__qualname__}; give one another name with @workflow(name=...)"
                )
                raise click.UsageError(msg)
    return found
