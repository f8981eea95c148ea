"""The command line interface, `mendflow`."""

from __future__ import annotations

import contextlib
import gc
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import click

from mendflow.cli.output import output_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main"]

#: The entry point group in which other packages, such as the server, add commands.
GROUP = "mendflow.commands"


class _Commands(click.Group):
    """The client's commands, and the commands of installed packages. Each is loaded when it is used."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command. Report output that cannot be written in one line."""
        given = args[0] if args else extra.get("args")
        # The server runs without its output, which is only its log.
        serves = list(sys.argv[1:] if given is None else given)[:1] == ["serve"]
        with output_errors(required=not serves):
            return super().main(*args, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        self._load_own()
        return sorted({*super().list_commands(ctx), *(entry.name for entry in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None if there is none with this name.

        Installed commands come first, because `serve` does not need the client's own.
        """
        for entry in entry_points(group=GROUP):
            if entry.name == cmd_name:
                try:
                    with _collector_paused():
                        command: click.Command = entry.load()
                except ModuleNotFoundError as error:
                    return _missing(cmd_name, error)
                return command
        self._load_own()
        return super().get_command(ctx, cmd_name)

    def _load_own(self) -> None:
        if self.commands:
            return
        # Late imports: these commands and rich's progress bars would add 20 ms to a server's start.
        from mendflow.cli.commands import COMMANDS  # noqa: PLC0415 - as above
        from mendflow.cli.export_history import export  # noqa: PLC0415 - as above
        from mendflow.cli.export_protos import export_protos  # noqa: PLC0415 - as above

        for command in (*COMMANDS, export, export_protos):
            self.add_command(command)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector during an import, which leaves little garbage and much to look through."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Together they make all objects old ones without a look at them, which would take 30 ms.
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()


def _missing(name: str, error: ModuleNotFoundError) -> click.Command:
    def fail(**_: object) -> None:
        raise click.UsageError(f"{name} needs the server ({error.name} is missing): pip install 'mendflow[server]'")

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        short_help="Requires pip install 'mendflow[server]'.",
    )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mendflow")
def main() -> None:
    """Durable, self-healing workflows.

    Exit codes: 0 the workflow succeeded, 1 it did not succeed, the server
    refused the call or the output cannot be written, 2 wrong usage, 3 the
    server cannot be reached, 4 the workflow has not ended in time (result).
    """
