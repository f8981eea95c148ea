"""`mendflow migrate`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING

import click

from mendflow.cli.event_text import clean
from mendflow.cli.output import escape_unencodable
from mendflow_server.cli.migrate_progress import PhaseMeter
from mendflow_server.store.access import DatabaseAccess
from mendflow_server.store.errors import StoreError, StoreRefused
from mendflow_server.store.factory import move_store

if TYPE_CHECKING:
    from mendflow_server.store.moving.move import Moved

__all__ = ["migrate"]

#: The exit codes, which are those of the other commands.
FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130


@click.command()
@click.option(
    "--password-file",
    envvar="MENDFLOW_STORE_PASSWORD_FILE",
    default="",
    help="File with the password of TARGET [default: MENDFLOW_STORE_PASSWORD_FILE].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
def migrate(source: str, target: str, *, password_file: str, as_json: bool) -> None:
    """Move a store from the SQLite file SOURCE to an empty PostgreSQL database or schema TARGET.

    Both are URLs: sqlite:///mendflow.db and postgresql://USER@HOST/DATABASE. Stop the server first. The command moves
    everything, open workflows included, reads every row back and compares it. It changes nothing in the file. The
    target gets everything or nothing. Then serve TARGET, and do not serve SOURCE again.

    Exit codes: 0 everything was moved, 1 the move failed, 2 wrong usage or a store that cannot be used.
    """
    escape_unencodable()
    try:
        # Keep warnings out of the report.
        with contextlib.redirect_stdout(sys.stderr):
            moved = asyncio.run(_move(source, target, DatabaseAccess(password_file=password_file)))
    except StoreError as error:
        click.echo(f"error: {clean(str(error))}", err=True)
        sys.exit(UNUSABLE if isinstance(error, StoreRefused) else FAILED)
    except KeyboardInterrupt:
        click.echo("error: interrupted; nothing was moved", err=True)
        sys.exit(INTERRUPTED)
    click.echo(_json(moved) if as_json else _text(moved))


async def _move(source: str, target: str, access: DatabaseAccess) -> Moved:
    with PhaseMeter() as meter:
        return await move_store(source, target, meter, access)


def _text(moved: Moved) -> str:
    return (
        f"{clean(moved.target)}: {moved.workflows} workflows, {moved.open_workflows} of them open; "
        f"{moved.rows} rows were moved, read back and compared\n"
        f"Serve this store from now on. Do not serve {clean(moved.source)} again: its open workflows would run twice."
    )


def _json(moved: Moved) -> str:
    return json.dumps(
        {
            "source": moved.source,
            "target": moved.target,
            "workflows": moved.workflows,
            "openWorkflows": moved.open_workflows,
            "rows": moved.rows,
        }
    )
