"""The command line in processes that do not import it: each process is a fork of one that has.

This saves half a second of processor time for each of hundreds of tests. A test of a process's start, signals, terminal
or encoding starts its own process with `subprocess`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from tests.support.forking import PROCESSES
from tests.support.servers import python_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.servers import ServerProcess

M = TypeVar("M", bound=Message)
#: The time limit of a command, in seconds.
PATIENCE = 60


def run_command(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    directory: Path | None = None,
    stdin: str = "",
    stdout: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line, piped, to its end, as `python -m mendflow.cli` in a directory would.

    ``stdout`` is a file to write to instead of a pipe.
    """
    environment = {**os.environ, "PYTHONPATH": python_path(), **variables}
    with tempfile.TemporaryDirectory() as folder:
        standard = [Path(folder) / name for name in ("in", "out", "error")]
        standard[0].write_bytes(stdin.encode())
        standard[1] = stdout or standard[1]
        process = PROCESSES.Process(
            target=_run, args=(list(arguments), directory or Path.cwd(), environment, standard), daemon=True
        )
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(
                list(arguments), PATIENCE, *(path.read_bytes() for path in standard[1:] if path.is_file())
            )
        code = process.exitcode
        process.close()
        return subprocess.CompletedProcess(
            list(arguments), code, *(path.read_bytes() if path.is_file() else b"" for path in standard[1:])
        )


def as_text(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    """Return the same with its output as text."""
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def serve(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mendflow serve`, which must fail before it serves."""
    return as_text(run_command(["serve", *arguments], {"FORCE_COLOR": "1"}, directory=directory))


def run(
    server: ServerProcess, *arguments: str, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line against a server, piped, until it exits."""
    variables = {"FORCE_COLOR": "1", "MENDFLOW_SERVER": server.grpc_address, **variables}
    return as_text(run_command(arguments, variables, stdin=stdin or ""))


def parse(text: str, kind: type[M]) -> list[M]:
    """Parse each line as a message of this kind."""
    return [json_format.Parse(line, kind()) for line in text.splitlines()]


def sequences(lines: list[str]) -> list[int]:
    """Return the sequence at the start of each line of a watch."""
    return [int(line.split()[0].removeprefix("#")) for line in lines]


def _run(arguments: list[str], directory: Path, environment: dict[str, str], standard: list[Path]) -> None:
    for number, path in enumerate(standard):
        descriptor = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(directory)
    sys.path[:0] = [str(directory), *filter(None, environment["PYTHONPATH"].split(os.pathsep))]
    sys.argv = ["mendflow", *arguments]
    from mendflow.cli import main  # noqa: PLC0415 - imported before the fork

    main()
