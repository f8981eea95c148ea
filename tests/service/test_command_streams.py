"""The command line with standard streams that are full, closed or missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from mendflow.cli import main
from tests.support.command_line import as_text, run, run_command
from tests.support.command_process import COMMAND, SECONDS, environment, run_in_shell

if TYPE_CHECKING:
    from tests.support.servers import ServerProcess

#: Each command, with arguments for which it has output. ID is a workflow that waits, and ENDED one that has ended.
OUTPUTS = {
    "start": ("start", "echo", "--input", '"x"'),
    "start --json": ("start", "echo", "--input", '"x"', "--json"),
    "start --watch": ("start", "echo", "--input", '"x"', "--watch"),
    "watch": ("watch", "ENDED"),
    "list": ("list",),
    "list --json": ("list", "--json"),
    "show": ("show", "ENDED"),
    "signal": ("signal", "ID", "other", "--force"),
    "show --events": ("show", "ENDED", "--events"),
    "result": ("result", "ENDED"),
    "cancel": ("cancel", "ID"),
    "terminate": ("terminate", "ID"),
    "hold": ("hold", "ENDED"),
    "release": ("release", "ENDED"),
    "delete": ("delete", "ENDED"),
    "types": ("types",),
    "health": ("health",),
    "info": ("info",),
    "export": ("export", "ENDED"),
    "backup": ("backup", "--store", "STORE", "COPY"),
    "verify": ("verify", "tests.support.workflows"),
    "verify --json": ("verify", "tests.support.workflows", "--json"),
    "export-protos": ("export-protos", "examples.order", "--out", "OUT"),
    "--help": ("--help",),
    "list --help": ("list", "--help"),
    "--version": ("--version",),
}


def with_output(server: ServerProcess, case: str, folder: Path) -> list[str]:
    """Make the workflows that a case needs, and return its arguments."""
    names = {"ID": f"waits-{folder.name}", "ENDED": f"ended-{folder.name}", "OUT": str(folder)}
    names |= {"STORE": f"sqlite:///{server.store}", "COPY": str(folder / "copy.db")}
    if "ID" in OUTPUTS[case]:
        run(server, "start", "wait_for", "--input", '"x"', "--id", names["ID"])
    if "ENDED" in OUTPUTS[case]:
        run(server, "start", "three", "--input", '"x"', "--id", names["ENDED"], "--wait", "30")
    return [names.get(argument, argument) for argument in OUTPUTS[case]]


def test_every_command_but_the_one_without_output_is_in_the_table() -> None:
    named = {arguments[0] for arguments in OUTPUTS.values()}
    # `serve` has only a log. `resume` prints what `cancel` prints. `migrate` needs a database; its tests look at this.
    assert set(main.list_commands(click.Context(main))) - named == {"serve", "resume", "migrate"}


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_full_disk_below_the_output_is_one_line_of_error(shared: ServerProcess, case: str, tmp_path: Path) -> None:
    arguments = with_output(shared, case, tmp_path)
    if case in ("list", "verify", "--help"):
        done = run_in_shell(shared, ">/dev/full", *arguments)
    else:
        variables = {"MENDFLOW_SERVER": shared.grpc_address}
        done = as_text(run_command(arguments, variables, stdout=Path("/dev/full")))
    assert done.returncode == 1, done.stderr
    *notes, line = done.stderr.splitlines()
    assert line == "error: the output cannot be written: No space left on device"
    assert len(notes) == ("--watch" in case), "the line that the workflow started"


@pytest.mark.parametrize("case", ["start", "verify", "export-protos", "--help"])
def test_a_closed_output_is_refused_before_the_command_does_anything(
    shared: ServerProcess, case: str, tmp_path: Path
) -> None:
    before = run(shared, "list", "--limit", "1000").stdout
    done = run_in_shell(shared, ">&-", *with_output(shared, case, tmp_path))
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: standard output is closed; redirect it")
    if case == "start":
        assert run(shared, "list", "--limit", "1000").stdout == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (("list",), {0}),
        (("list", "--limit", "x"), {1, 2}),
        (("verify", "tests.support.workflows"), {0}),
        (("serve", "missing"), {1, 2}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_command_without_standard_error_keeps_its_output_and_its_failure(
    shared: ServerProcess, redirection: str, arguments: tuple[str, ...], codes: set[int]
) -> None:
    run(shared, "start", "echo", "--input", '"x"')
    done = run_in_shell(shared, redirection, *arguments)
    assert done.returncode in codes
    if codes == {0}:
        assert done.stdout


@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", "<&- >&- 2>&-"])
def test_a_command_without_any_output_exits_with_1(shared: ServerProcess, redirection: str) -> None:
    assert run_in_shell(shared, redirection, "info").returncode == 1


def test_a_closed_standard_input_is_named(shared: ServerProcess) -> None:
    done = run_in_shell(shared, "<&-", "start", "echo", "--input", "-")
    assert done.returncode == 2
    assert "standard input cannot be read: it is closed" in done.stderr
    assert run_in_shell(shared, "<&-", "info").returncode == 0


@pytest.mark.parametrize("case", ["list", "export", "verify --json"])
def test_a_pipe_that_its_reader_closed_exits_with_1_and_without_a_word(
    shared: ServerProcess, case: str, tmp_path: Path
) -> None:
    arguments = with_output(shared, case, tmp_path)
    run(shared, "start", "wait_for", "--input", '"x"', "--id", f"listed-{tmp_path.name}")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env=environment(MENDFLOW_SERVER=shared.grpc_address),
            stdout=writer,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
