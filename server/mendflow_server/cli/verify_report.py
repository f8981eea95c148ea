"""How `mendflow verify` writes its findings: as text or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import click

from mendflow.cli.event_text import clean, state_name
from mendflow.v1 import workflow_pb2
from mendflow_server.verification import Verdict

if TYPE_CHECKING:
    from mendflow_server.verification import Finding, Tally

__all__ = ["JsonReport", "Report", "TextReport", "count_text"]

#: The most workflows that `TextReport` lists for each verdict that passes. It counts the others, to bound memory.
MOST_LISTED: Final = 1_000

_PHRASES: Final = {
    Verdict.PAUSES: "would pause",
    Verdict.LOSES_CLEANUP: "would be cancelled without clean-up",
    Verdict.STARTS_INSERTED: "would first make calls that are marked as inserted",
    Verdict.KEEPS_WAITING: "would keep waiting although a recorded call was removed",
    Verdict.RESUMES: "would be resumed",
    Verdict.ENDS: "would end",
    Verdict.CONTINUES: "would continue",
    Verdict.NOT_SERVED: "not served by these modules",
}


class Report(Protocol):
    """Writes findings and a summary."""

    def add(self, finding: Finding) -> None:
        """Write a finding now, or keep it for `end`."""

    def end(self, tally: Tally) -> None:
        """Write the findings that were kept, and the summary."""


class TextReport:
    """Writes findings as text: at once those that would pause, then the others."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._kept: dict[Verdict, list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        """See `Report.add`."""
        if not finding.passes:
            self._write(finding)
            return
        listed = self._kept.setdefault(finding.verdict, [])
        if len(listed) < MOST_LISTED:
            listed.append(finding)

    def end(self, tally: Tally) -> None:
        """See `Report.end`."""
        for verdict in (Verdict.STARTS_INSERTED, Verdict.KEEPS_WAITING, Verdict.RESUMES, Verdict.ENDS):
            listed = self._kept.get(verdict, [])
            for finding in listed:
                self._write(finding)
            more = tally.verdicts[verdict] - len(listed)
            if more:
                self._line(f"{more} more {_PHRASES[verdict]}; use --json to list all")
        for name, count in sorted(tally.not_served.items()):
            self._line(f"not served by these modules: {count} of type {clean(name)}")
        parts = [
            f"{tally.verdicts[verdict]} {phrase}" for verdict, phrase in _PHRASES.items() if tally.verdicts[verdict]
        ]
        self._line(f"{count_text(tally.total)}: {', '.join(parts)}" if parts else "no open workflows")

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
    """Writes findings as JSON objects at once, one a line."""

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


def count_text(number: int) -> str:
    """Return the number of open workflows in words, as in "1 open workflow"."""
    return f"{number} open workflow{'' if number == 1 else 's'}"
