"""`mendflow export`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mendflow.cli.commands import run_command, server_option
from mendflow.cli.event_text import clean
from mendflow.histories import history_text

if TYPE_CHECKING:
    from mendflow.client import Client

__all__ = ["export"]


@click.command()
@click.argument("workflow_id", metavar="ID")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the history goes; standard output by default.",
)
@server_option
def export(server: str, workflow_id: str, out: Path | None) -> None:
    """Write a workflow's history as JSON, for tests that replay it.

    mendflow.testing.replay reads it, and fails when the code of a workflow function no longer fits it;
    docs/writing-workflows.md has an example. The history has all inputs and results: look before you publish it.
    """
    sys.exit(run_command(_export, server, {"workflow_id": workflow_id, "out": out}))


async def _export(client: Client, *, workflow_id: str, out: Path | None) -> int:
    workflow = await client.get(workflow_id)
    events = [event async for event in client.handle(workflow_id).events()]
    text = history_text(workflow.workflow_id, workflow.workflow_type, events)
    if out is None:
        click.echo(text.encode(), nl=False)
        return 0
    try:
        _write(out, text)
    except OSError as error:
        click.echo(f"error: {out} cannot be written: {error.strerror or error}", err=True)
        return 1
    click.echo(f"{clean(workflow.workflow_id)}: {len(events)} events in {out}", err=True)
    return 0


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
