"""What the demos print, and how they end."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from examples.processes import ROOT, DemoFailed
from mendflow import MendflowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from examples.audit import Finding


def say(text: str = "", **style: Any) -> None:
    """Print a line, with colours only on a terminal."""
    click.secho(text, **style)


def headline(text: str) -> None:
    """Print a headline."""
    say()
    say(f"── {text}", bold=True)


def say_on_one_line(line: str, **style: Any) -> None:
    """Print a line, truncated to the width of a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        line = line if len(line) <= width else f"{line[: width - 1]}…"
    say(line, **style)


def show_findings(findings: Iterable[Finding]) -> None:
    """Print each finding with its evidence."""
    for finding in findings:
        say(f"{'✓' if finding.holds else '✗'} {finding.claim}", fg=None if finding.holds else "red")
        for detail in finding.details:
            say(f"        {detail}", dim=True)


def program() -> str:
    """Return `mendflow` as a shell finds it. It is a path, because the shell may use another environment."""
    path = Path(sys.executable).with_name("mendflow")
    name = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    return shlex.quote(name if path.exists() else "mendflow")


def empty(directory: Path) -> None:
    """Empty the directory. Raise `DemoFailed` if it has files that are not from a demo."""
    if directory.exists() and any(directory.iterdir()) and not (directory / "smtp.log").exists():
        raise DemoFailed(f"{directory} has files that are not from a demo; use another --directory")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


async def _interruptible(show: Callable[[], Awaitable[bool]]) -> bool:
    """Run the demo. SIGTERM and a closed terminal cancel it like Ctrl-C, so that no process stays behind."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel if task else lambda: None)
    return await show()


def run(show: Callable[[], Awaitable[bool]], directory: Path, limit: float) -> int:
    """Run a demo in an empty directory, and return the exit code: 0 only if every claim holds."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        empty(directory)
        return 0 if asyncio.run(_interruptible(show)) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped", err=True)
        return 130
    except BrokenPipeError:
        # The reader closed the pipe. Discard the rest of the output, so that Python does not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TimeoutError:
        say(f"the demo exceeded its limit of {limit:g} s; see the logs in {directory}", fg="red", err=True)
        return 1
    except (DemoFailed, MendflowError) as error:
        say(f"the demo failed: {error}", fg="red", err=True)
        return 1
