"""The command line in its own process, for tests of its signals, its terminal, its encoding and its start."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import python_path
from tests.support.terminal import run_on_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.servers import ServerProcess


COMMAND = [sys.executable, "-m", "mendflow.cli"]
SECONDS = 60


def environment(**more: str) -> dict[str, str]:
    # Many build machines set FORCE_COLOR. A pipe must stay plain nevertheless.
    return {**os.environ, "PYTHONPATH": python_path(), "FORCE_COLOR": "1", **more}


def run_process(
    arguments: Sequence[str], variables: Mapping[str, str], *, redirection: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command line, piped, until it exits. With a redirection, a shell redirects or closes its streams."""
    shell = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh"] if redirection else []
    return subprocess.run(
        [*shell, *COMMAND, *arguments],
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


def run_in_shell(server: ServerProcess, redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with standard streams that the shell redirects or closes."""
    return run_process(arguments, {"MENDFLOW_SERVER": server.grpc_address}, redirection=redirection)


def begin(server: ServerProcess, *arguments: str) -> subprocess.Popen[str]:
    """Start the command line, piped."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(MENDFLOW_SERVER=server.grpc_address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Read lines up to one that contains these words."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if words in line:
            return lines
    pytest.fail(f"{words!r} did not come: {lines}")


def on_terminal(server: ServerProcess, *arguments: str, columns: int = 120) -> tuple[int, str]:
    """Run the command line on its own terminal. Return its exit code and everything that it wrote."""
    return run_on_terminal([*COMMAND, *arguments], environment(MENDFLOW_SERVER=server.grpc_address), columns)
