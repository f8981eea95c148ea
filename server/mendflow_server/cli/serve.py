"""`mendflow serve`."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from mendflow.authoring.workflow import Workflow, check_steps
from mendflow.errors import DefinitionError
from mendflow_server import app
from mendflow_server.api.server import CannotListen
from mendflow_server.http.server import CannotListenHttp
from mendflow_server.runtime.event_loop import LoopNotInstalled, run_on_loop
from mendflow_server.settings import SettingsError, load_settings
from mendflow_server.store.errors import StoreError
from mendflow_server.telemetry.logging import configure_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

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
@click.pass_obj
def serve(new_app: Callable[..., app.App] | None, /, modules: tuple[str, ...], **options: Any) -> None:
    """Serve the workflows of Python modules until SIGTERM, then drain.

    Every setting is also a variable MENDFLOW_...; docs/operating.md lists them.
    """
    try:
        settings = load_settings(**options)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    configure_logs(settings)
    try:
        definitions = load_workflows(modules)
    except DefinitionError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    sys.exit(run(settings, definitions, new_app=new_app or app.App))


def run(
    settings: Settings, definitions: dict[str, Workflow[Any, Any]], *, new_app: Callable[..., app.App] = app.App
) -> int:
    """Serve; answer the exit code. What keeps the server from starting is told in one line."""
    try:
        return run_on_loop(app.serve(settings, definitions, new_app=new_app), settings)
    except (LoopNotInstalled, StoreError, CannotListen, CannotListenHttp, DefinitionError) as error:
        click.echo(f"error: {error}", err=True)
        return 1


def load_workflows(modules: Iterable[str]) -> dict[str, Workflow[Any, Any]]:
    """Import modules (the working directory comes first) and return their workflows by name.

    Raise `DefinitionError` for a step of theirs whose types cannot be recorded.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: dict[str, Workflow[Any, Any]] = {}
    for name in modules:
        module = _import(name)
        mine = [thing for thing in vars(module).values() if isinstance(thing, Workflow)]
        if not mine:
            msg = f"module {name!r} has no function decorated with @workflow"
            raise click.UsageError(msg)
        check_steps(vars(module))
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


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            dotted = name.removesuffix(".py").strip("./").replace("/", ".")
            msg = f"there is no module {name!r} here or in the environment; name it as in `import {dotted}`"
            raise click.UsageError(msg) from None
        raise _unimportable(name, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module is the user's: it may raise anything
        raise _unimportable(name, error) from None


def _unimportable(name: str, error: BaseException) -> click.UsageError:
    """Say what went wrong and at which line of the module, or of what it imports."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:
        where = ""  # Its message has the place.
    else:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
        # The import system's own frames say nothing about the module.
        for frame in frames:
            if not frame.filename.startswith("<frozen ") and frame.filename != importlib.__file__:
                where = f" ({frame.filename}, line {frame.lineno})"
    what = "ends the process" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    return click.UsageError(f"module {name!r} cannot be imported: {what}{where}")
