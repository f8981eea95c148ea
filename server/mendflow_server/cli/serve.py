"""`mendflow serve`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
import structlog

from mendflow.errors import DefinitionError
from mendflow_server import app
from mendflow_server.api.server import CannotListen
from mendflow_server.cli.workflow_modules import load_workflows
from mendflow_server.http.server import CannotListenHttp
from mendflow_server.runtime.event_loop import LoopNotInstalled, run_on_loop
from mendflow_server.runtime.exit_guard import ExitGuard
from mendflow_server.settings import SettingsError, load_settings
from mendflow_server.store.errors import StoreError
from mendflow_server.store.factory import absolute_url
from mendflow_server.telemetry.logging import configure_logs, fix_loggers

if TYPE_CHECKING:
    from collections.abc import Callable

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.settings import Settings

__all__ = ["serve"]

log = structlog.get_logger("mendflow.serve")


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--store",
    metavar="URL",
    help="URL of the store: sqlite:///relative.db, sqlite:////absolute.db or postgresql://USER@HOST/DATABASE.",
)
@click.option("--grpc-address", metavar="HOST:PORT", help="Address of the gRPC server (127.0.0.1:50051).")
@click.option("--http-address", metavar="HOST:PORT", help="Address of the HTTP server with /health (127.0.0.1:3000).")
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Serve beyond loopback without TLS. Anyone who reaches the port can start, read and end workflows.",
)
@click.option("--log-level", metavar="LEVEL", help="Lowest level to log: debug, info, warning or error (info).")
@click.option("--log-format", metavar="FORMAT", help="Format of the log: json, console or auto (auto).")
@click.pass_obj
def serve(new_app: Callable[..., app.App] | None, /, modules: tuple[str, ...], **options: Any) -> None:
    """Serve the workflows of Python modules until SIGTERM, then drain.

    MODULE is a name as in `import`, or the path of a .py file or of a package's folder.

    Each setting is also an environment variable MENDFLOW_...; docs/operating.md lists them.
    """
    try:
        settings = load_settings(**options)
        # The modules may change the working directory.
        settings = settings.model_copy(update={"store": absolute_url(settings.store)})
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    users = configure_logs(settings)
    fix_loggers()
    try:
        loaded = load_workflows(modules)
    except DefinitionError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    for module in {each.function.__module__ for each in loaded.workflows.values()}:
        users.serve(module)
    for each in loaded.not_served:
        log.warning("workflow_not_served", workflow_type=each.workflow_type, place=each.place, advice=each.advice)
    sys.exit(run(settings, loaded.workflows, new_app=new_app or app.App))


def run(
    settings: Settings, definitions: dict[str, Workflow[Any, Any]], *, new_app: Callable[..., app.App] = app.App
) -> int:
    """Serve until the server stops, and return the exit code. Print an error of the start in one line."""
    guard = ExitGuard()
    try:
        code = run_on_loop(app.serve(settings, definitions, new_app=new_app, guard=guard), settings)
    except (LoopNotInstalled, StoreError, CannotListen, CannotListenHttp, DefinitionError) as error:
        click.echo(f"error: {error}", err=True)
        code = 1
    guard.limit_exit(settings.exit_timeout, code)
    return code
