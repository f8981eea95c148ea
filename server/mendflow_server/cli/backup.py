"""`mendflow backup`."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mendflow.cli.event_text import clean
from mendflow.cli.output import escape_unencodable
from mendflow_server.settings import SettingsError, load_settings
from mendflow_server.store.errors import StoreError, StoreRefused
from mendflow_server.store.factory import back_up_store

if TYPE_CHECKING:
    from mendflow_server.store.sqlite.backup import Backup

__all__ = ["backup"]

#: The exit codes, which are those of the other commands.
FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130


@click.command()
@click.option("--store", metavar="URL", help="URL of the store: sqlite:///mendflow.db (or MENDFLOW_STORE).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("destination", metavar="DESTINATION", type=click.Path(path_type=Path))
def backup(store: str | None, destination: Path, *, as_json: bool) -> None:
    """Copy a store to the file DESTINATION, also while its server runs.

    The copy holds one state of the store. The command checks it, and replaces no file. To restore it, stop the server
    and serve the copy.

    Exit codes: 0 the copy is complete, 1 the copy failed, 2 wrong usage or a store or destination that cannot be used.
    """
    escape_unencodable()
    try:
        made = back_up_store(load_settings(store=store).store, destination)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    except StoreError as error:
        click.echo(f"error: {clean(str(error))}", err=True)
        sys.exit(UNUSABLE if isinstance(error, StoreRefused) else FAILED)
    except KeyboardInterrupt:
        click.echo("error: interrupted; no copy was made", err=True)
        sys.exit(INTERRUPTED)
    click.echo(_json(made) if as_json else _text(made))


def _moment(made: Backup) -> str:
    if not made.last_time:
        return ""
    moment = dt.datetime.fromtimestamp(made.last_time / 1e6, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(made: Backup) -> str:
    state = _moment(made)
    return (
        f"{clean(str(made.path))}: {made.workflows} workflows, {made.open_workflows} of them open, "
        f"{made.size / 1e6:.1f} MB" + (f", as of {state}" if state else "")
    )


def _json(made: Backup) -> str:
    return json.dumps(
        {
            "path": str(made.path),
            "bytes": made.size,
            "workflows": made.workflows,
            "openWorkflows": made.open_workflows,
            "asOf": _moment(made),
        }
    )
