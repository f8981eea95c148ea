"""The command line interface, `mendflow`."""

from __future__ import annotations

from importlib.metadata import entry_points

import click

from mendflow.cli.commands import COMMANDS
from mendflow.cli.export_history import export
from mendflow.cli.export_protos import export_protos

__all__ = ["main"]

#: The entry point group in which other packages, such as the server, add commands.
GROUP = "mendflow.commands"


class _Commands(click.Group):
    """The client's commands, and the commands of installed packages, which are loaded when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *(entry.name for entry in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None if there is none with this name."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in entry_points(group=GROUP):
            if entry.name == cmd_name:
                try:
                    command: click.Command = entry.load()
                except ModuleNotFoundError as error:
                    return _missing(cmd_name, error)
                return command
        return None


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

    Exit codes: 0 the workflow succeeded, 1 it did not succeed or the server
    refused the call, 2 wrong usage, 3 the server cannot be reached.
    """


for _command in (*COMMANDS, export, export_protos):
    main.add_command(_command)
