"""`mendflow verify`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from mendflow import Client, errors
from mendflow.addresses import check_target
from mendflow.cli.event_text import clean
from mendflow.cli.output import escape_unencodable
from mendflow.errors import DefinitionError
from mendflow_server import verification
from mendflow_server.cli.progress_bar import ProgressBar
from mendflow_server.cli.verify_report import JsonReport, TextReport, count_text
from mendflow_server.cli.workflow_modules import load_workflows
from mendflow_server.settings import SettingsError, load_settings
from mendflow_server.store.errors import StoreError
from mendflow_server.store.factory import absolute_url, inspect_store
from mendflow_server.verification import ServerSource, StoreSource, Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.cli.verify_report import Report
    from mendflow_server.verification import Source

__all__ = ["verify"]

#: The exit codes, which are those of the other commands.
PASSES, PAUSES, UNUSABLE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
#: How long to retry a server that does not answer, in seconds.
PATIENCE: Final = 3.0

_SERVER: Final = "MENDFLOW_SERVER"
_STORE: Final = "MENDFLOW_STORE"


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--store", metavar="URL", help=f"URL of the store to read, as sqlite:///mendflow.db (or {_STORE}).")
@click.option("--server", metavar="HOST:PORT", help=f"Address of a running server to read from (or {_SERVER}).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line. The last one is the summary.")
def verify(modules: tuple[str, ...], store: str | None, server: str | None, *, as_json: bool) -> None:
    """Replay all open workflows with the code of Python modules, before it is deployed.

    MODULE is a name as in `import`, or the path of a .py file or of a package's folder.

    The command lists each workflow that a server with this code would pause, and why. It runs no step and writes
    nothing, so it can run beside a running server. It reads the workflows from a server (--server) or from the file of
    a store (--store).

    Exit codes: 0 no workflow would pause, 1 a workflow would pause or cannot be read, 2 wrong usage or a store that
    cannot be opened, 3 the server cannot be reached.
    """
    store, server = _place(store, server)
    store = store and absolute_url(store)  # The modules may change the working directory.
    try:
        payload_limit = load_settings().payload_limit
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    escape_unencodable()
    out = sys.stdout
    # Keep the output of modules and workflow code out of the report.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            definitions = _definitions(modules)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        report: Report = JsonReport(out) if as_json else TextReport(out)
        sys.exit(_run(definitions, store, server, report, payload_limit))


def _place(store: str | None, server: str | None) -> tuple[str | None, str | None]:
    """Return the store or the server to read, the other as None. An option overrides the environment variables."""
    named = "options"
    if store is None and server is None:
        named = "variables"
        store, server = os.environ.get(_STORE) or None, os.environ.get(_SERVER) or None
    if store is not None and server is not None:
        both = "--store and --server" if named == "options" else f"{_STORE} and {_SERVER}"
        raise click.UsageError(f"{both} are both set; set --store or --server, not both")
    if store is None and server is None:
        raise click.UsageError(
            "no store and no server to read open workflows from; set --store URL or --server HOST:PORT"
        )
    if server is not None:
        try:
            check_target(server)
        except ValueError as error:
            raise click.UsageError(f"{'--server' if named == 'options' else _SERVER}: {error}") from None
    return store, server


def _definitions(modules: tuple[str, ...]) -> dict[str, Workflow[Any, Any]]:
    loaded = load_workflows(modules)
    for each in loaded.not_served:
        click.echo(f"warning: {each}", err=True)
    try:
        for definition in loaded.workflows.values():
            definition.check()
    except DefinitionError as error:
        raise click.UsageError(str(error)) from None
    return loaded.workflows


def _run(
    definitions: Mapping[str, Workflow[Any, Any]],
    store: str | None,
    server: str | None,
    report: Report,
    payload_limit: int,
) -> int:
    """Verify all open workflows, write the report, and return the exit code."""
    tally = Tally()
    try:
        asyncio.run(_verify(definitions, store, server, report, tally, payload_limit))
    except StoreError as error:
        return _give_up(tally, str(error), UNUSABLE)
    except errors.RequestError as error:
        unreachable = isinstance(error, errors.ServerUnavailable | errors.DeadlineExceeded) and not error.reason
        return _give_up(tally, str(error), UNREACHABLE if unreachable else PAUSES)
    except UnicodeEncodeError as error:
        raise click.UsageError(f"{error.object!r} is not valid UTF-8") from None
    except KeyboardInterrupt:
        return _give_up(tally, "interrupted", INTERRUPTED)
    report.end(tally)
    return PASSES if tally.passes else PAUSES


def _give_up(tally: Tally, why: str, code: int) -> int:
    """Print an error and how far the command got. Return ``code``."""
    progress = f"; verified {count_text(tally.total)} before" if tally.total else ""
    click.echo(f"error: {clean(why)}{progress}", err=True)
    return code


async def _verify(
    definitions: Mapping[str, Workflow[Any, Any]],
    store: str | None,
    server: str | None,
    report: Report,
    tally: Tally,
    payload_limit: int,
) -> None:
    async with _source(store, server) as source:
        count = await source.count()
        of = "" if count is None else f" of about {count}"
        with ProgressBar("verifying", count) as bar:
            findings = verification.verify(source, definitions, payload_limit=payload_limit)
            async with contextlib.aclosing(findings):
                async for finding in findings:
                    tally.add(finding)
                    if finding.verdict not in (Verdict.CONTINUES, Verdict.NOT_SERVED):
                        with bar.hidden():
                            report.add(finding)
                    bar.update(tally.total, f"verified {tally.total}{of}")


@contextlib.asynccontextmanager
async def _source(store: str | None, server: str | None) -> AsyncIterator[Source]:
    if server is not None:
        async with Client(server, retry_for=PATIENCE) as client:
            yield ServerSource(client)
        return
    with contextlib.closing(inspect_store(store or "")) as inspector:
        yield StoreSource(inspector)
