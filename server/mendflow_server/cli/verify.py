"""`mendflow verify`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mendflow import Client, errors
from mendflow.cli.event_text import clean, state_name
from mendflow.errors import DefinitionError
from mendflow.v1 import workflow_pb2
from mendflow_server import verification
from mendflow_server.cli.serve import load_workflows
from mendflow_server.settings import SettingsError, load_settings
from mendflow_server.store.errors import StoreError
from mendflow_server.store.factory import inspect_store
from mendflow_server.verification import Finding, ServerSource, Source, StoreSource, Tally, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mendflow.authoring.workflow import Workflow

__all__ = ["verify"]

#: Exit codes, as the other commands have them.
PASSES, PAUSES, UNUSABLE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
#: Seconds to retry a server that does not answer.
PATIENCE: Final = 3.0
#: Seconds between two lines of progress where there is no terminal.
BETWEEN_LINES: Final = 10.0
#: Workflows that pass and are listed one by one; the others are counted, so that memory stays bounded.
MOST_LISTED: Final = 1_000

_SERVER: Final = "MENDFLOW_SERVER"
_STORE: Final = "MENDFLOW_STORE"
_PHRASES: Final = {
    Verdict.PAUSES: "would pause",
    Verdict.LOSES_CLEANUP: "would be cancelled without clean-up",
    Verdict.STARTS_INSERTED: "would first make calls that are marked as inserted",
    Verdict.KEEPS_WAITING: "would keep waiting although a recorded call was removed",
    Verdict.RESUMES: "would be resumed",
    Verdict.ENDS: "would end",
    Verdict.GOES_ON: "would go on",
    Verdict.NOT_SERVED: "not served by these modules",
}


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--store", metavar="URL", help=f"The store's file, as sqlite:///mendflow.db (or {_STORE}).")
@click.option("--server", metavar="HOST:PORT", help=f"A running server (or {_SERVER}).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line; the last one is the summary.")
def verify(modules: tuple[str, ...], store: str | None, server: str | None, *, as_json: bool) -> None:
    """Replay all open workflows with the code of Python modules, before it is deployed.

    No step runs and nothing is written, so it can be used beside a running server. Workflows that a server with this
    code would pause are listed with the reason. Read them from a server with --server, or from its file with --store.

    Exit codes: 0 none would pause, 1 some would or cannot be read, 2 wrong usage or a store that cannot be opened,
    3 the server cannot be reached.
    """
    store, server = _place(store, server)
    try:
        payload_limit = load_settings().payload_limit
    except SettingsError as error:
        raise click.UsageError(str(error)) from None
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a TextIOWrapper
    out = sys.stdout
    # What modules and workflow code print must not get into the report.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            definitions = _definitions(modules)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        report: Report = JsonReport(out) if as_json else TextReport(out)
        sys.exit(_run(definitions, store, server, report, payload_limit))


def _place(store: str | None, server: str | None) -> tuple[str | None, str | None]:
    """Return the store or the server to read: an option goes before the variables."""
    named = "options"
    if store is None and server is None:
        named = "variables"
        store, server = os.environ.get(_STORE) or None, os.environ.get(_SERVER) or None
    if store is not None and server is not None:
        both = "--store and --server" if named == "options" else f"{_STORE} and {_SERVER}"
        raise click.UsageError(f"{both} are both set; give --store or --server, not both")
    if store is None and server is None:
        raise click.UsageError("give --store URL or --server HOST:PORT: where the open workflows are read")
    return store, server


def _definitions(modules: tuple[str, ...]) -> dict[str, Workflow[Any, Any]]:
    definitions = load_workflows(modules)
    try:
        for definition in definitions.values():
            definition.check()
    except DefinitionError as error:
        raise click.UsageError(str(error)) from None
    return definitions


def _run(
    definitions: Mapping[str, Workflow[Any, Any]],
    store: str | None,
    server: str | None,
    report: Report,
    payload_limit: int,
) -> int:
    """Return the exit code."""
    tally = Tally()
    try:
        asyncio.run(_verify(definitions, store, server, report, tally, payload_limit))
    except StoreError as error:
        return _give_up(tally, str(error), UNUSABLE)
    except errors.RequestError as error:
        away = isinstance(error, errors.ServerUnavailable | errors.DeadlineExceeded) and not error.reason
        return _give_up(tally, str(error), UNREACHABLE if away else PAUSES)
    except UnicodeEncodeError as error:
        raise click.UsageError(f"{error.object!r} is not valid UTF-8") from None
    except KeyboardInterrupt:
        return _give_up(tally, "interrupted", INTERRUPTED)
    report.end(tally)
    return PASSES if tally.passes else PAUSES


def _give_up(tally: Tally, why: str, code: int) -> int:
    far = f"; verified {_count(tally.total)} before" if tally.total else ""
    click.echo(f"error: {clean(why)}{far}", err=True)
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
        with Meter(await source.count()) as meter:
            findings = verification.verify(source, definitions, payload_limit=payload_limit)
            async with contextlib.aclosing(findings):
                async for finding in findings:
                    tally.add(finding)
                    if finding.verdict not in (Verdict.GOES_ON, Verdict.NOT_SERVED):
                        with meter.hidden():
                            report.add(finding)
                    meter.advance(tally)


@contextlib.asynccontextmanager
async def _source(store: str | None, server: str | None) -> AsyncIterator[Source]:
    if server is not None:
        async with Client(server, retry_for=PATIENCE) as client:
            yield ServerSource(client)
        return
    with contextlib.closing(inspect_store(store or "")) as inspector:
        yield StoreSource(inspector)


class Report(Protocol):
    """Where findings are written."""

    def add(self, finding: Finding) -> None:
        """Take a finding that is worth reading."""

    def end(self, tally: Tally) -> None:
        """Write what is left, and the summary."""


class TextReport:
    """Findings for people: first those that would pause, as they are found, then the others."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._later: dict[Verdict, list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        """See `Report.add`."""
        if not finding.passes:
            self._write(finding)
            return
        listed = self._later.setdefault(finding.verdict, [])
        if len(listed) < MOST_LISTED:
            listed.append(finding)

    def end(self, tally: Tally) -> None:
        """See `Report.end`."""
        for verdict in (Verdict.STARTS_INSERTED, Verdict.KEEPS_WAITING, Verdict.RESUMES, Verdict.ENDS):
            listed = self._later.get(verdict, [])
            for finding in listed:
                self._write(finding)
            more = tally.verdicts[verdict] - len(listed)
            if more:
                self._line(f"{more} more {_PHRASES[verdict]}; --json lists all")
        for name, count in sorted(tally.not_served.items()):
            self._line(f"not served by these modules: {count} of type {clean(name)}")
        parts = [
            f"{tally.verdicts[verdict]} {phrase}" for verdict, phrase in _PHRASES.items() if tally.verdicts[verdict]
        ]
        self._line(f"{_count(tally.total)}: {', '.join(parts)}" if parts else "no open workflows")

    def _write(self, finding: Finding) -> None:
        entry = finding.entry
        phrase = _PHRASES[finding.verdict]
        if finding.verdict is Verdict.PAUSES and entry.state == workflow_pb2.WORKFLOW_STATE_PAUSED:
            phrase = "would stay PAUSED"
        self._line(f"{clean(entry.workflow_id)}  {clean(entry.workflow_type)}  {state_name(entry.state)}  {phrase}")
        if finding.explanation:
            self._line(f"    {clean(finding.explanation)}")
        if finding.unclaimed:
            self._line(f"    recorded and not called: {clean(', '.join(finding.unclaimed))}")

    def _line(self, text: str) -> None:
        click.echo(text, file=self._out)


class JsonReport:
    """Findings as JSON, one a line as they are found."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def add(self, finding: Finding) -> None:
        """See `Report.add`."""
        entry = finding.entry
        self._line(
            {
                "workflow_id": entry.workflow_id,
                "workflow_type": entry.workflow_type,
                "state": state_name(entry.state),
                "verdict": finding.verdict,
                "explanation": finding.explanation,
                "unclaimed": list(finding.unclaimed),
            }
        )

    def end(self, tally: Tally) -> None:
        """See `Report.end`."""
        verdicts = {verdict.value: count for verdict, count in tally.verdicts.items()}
        summary = {"open": tally.total, "passes": tally.passes, **verdicts, "not_served_types": tally.not_served}
        self._line({"summary": summary})

    def _line(self, value: dict[str, Any]) -> None:
        click.echo(json.dumps(value), file=self._out)


class Meter:
    """How far it is, on standard error: a bar on a terminal, else a line now and then. Use it as a context manager."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._live = sys.stderr.isatty()
        self._last = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
            disable=not self._live,
            # What workflow code prints goes to standard error as it is.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("verifying", total=total)

    def __enter__(self) -> Self:
        """Begin."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    @contextlib.contextmanager
    def hidden(self) -> Any:
        """Take the bar away while something else is written."""
        if not self._live:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def advance(self, tally: Tally) -> None:
        """Count one more workflow."""
        self._progress.update(self._task, completed=tally.total)
        now = time.monotonic()
        if not self._live and now - self._last >= BETWEEN_LINES:
            self._last = now
            of = "" if self._total is None else f" of about {self._total}"
            click.echo(f"verified {tally.total}{of}", err=True)


def _count(number: int) -> str:
    return f"{number} open workflow{'' if number == 1 else 's'}"
