"""The command `mendflow export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mendflow.cli import params
from mendflow.cli.atomic_file import write_atomically
from mendflow.cli.commands import run_command, server_option
from mendflow.cli.event_text import clean
from mendflow.histories import history_text

if TYPE_CHECKING:
    from mendflow.client import Client

__all__ = ["export"]


@click.command()
@click.argument("workflow_id", metavar="ID", callback=params.not_empty)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file to write. The default, and -, is standard output.",
)
@server_option
def export(server: str, workflow_id: str, out: Path | None) -> None:
    """Write a workflow's history as JSON, for tests that replay it.

    mendflow.testing.replay reads the file and fails if the workflow function no longer fits the history;
    docs/writing-workflows.md has an example. The history contains all inputs and results, so check it before you
    publish it.
    """
    sys.exit(run_command(_export, server, {"workflow_id": workflow_id, "out": out}))


async def _export(client: Client, *, workflow_id: str, out: Path | None) -> int:
    workflow = await client.get(workflow_id)
    events = [event async for event in client.handle(workflow_id).events()]
    text = history_text(workflow.workflow_id, workflow.workflow_type, events)
    if out is None or str(out) == "-":
        click.echo(text.encode(), nl=False)
        return 0
    try:
        write_atomically(out, text)
    except OSError as error:
        click.echo(f"error: {out} cannot be written: {error.strerror or error}", err=True)
        return 1
    click.echo(f"{clean(workflow.workflow_id)}: {len(events)} events in {out}", err=True)
    return 0
