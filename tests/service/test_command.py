"""The command line against a server process: what a user types, pipes, interrupts and mistypes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from google.protobuf import json_format
from rich.cells import cell_len

from mendflow.cli import main
from mendflow.v1 import event_pb2, operator_service_pb2, workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from tests.support.command_line import as_text, run_command, serve
from tests.support.command_process import COMMAND, SECONDS, environment
from tests.support.servers import free_port, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from tests.support.servers import ServerProcess


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server for the tests that do not disturb it. Each test uses its own ids."""
    with serving_process(tmp_path_factory.mktemp("shared")) as server:
        yield server


def run(
    server: ServerProcess, *arguments: str, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line, piped, until it exits."""
    variables = {"FORCE_COLOR": "1", "MENDFLOW_SERVER": server.grpc_address, **variables}
    return as_text(run_command(arguments, variables, stdin=stdin or ""))


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


def parse(text: str, *kinds: Any) -> list[Message]:
    """Parse each line as the kind at its position. The last kind is that of all further lines."""
    lines = text.splitlines()
    return [json_format.Parse(line, kinds[min(index, len(kinds) - 1)]()) for index, line in enumerate(lines)]


def sequences(lines: list[str]) -> list[int]:
    return [int(line.split()[0].removeprefix("#")) for line in lines]


def test_a_watched_start_prints_a_plain_line_an_event_and_exits_0(shared: ServerProcess) -> None:
    done = run(shared, "start", "retried", "--input", "2", "--id", "plain", "--watch")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sequences(lines) == list(range(1, len(lines) + 1))
    assert "\x1b" not in done.stdout + done.stderr
    failed = [line for line in lines if " failed: " in line]
    assert len(failed) == 2
    for number, line in enumerate(failed, start=1):
        assert f"attempt {number} failed: TransientError: attempt {number} of 2 failures (transient)" in line
        assert re.search(r"retries in \d+\.\d\d s \(backoff, \d left\)$", line)
    assert lines[-1].endswith("SUCCEEDED with 3")
    assert run(shared, "watch", "plain").stdout == done.stdout


def test_each_end_has_its_exit_code(shared: ServerProcess) -> None:
    assert run(shared, "start", "fails", "--input", '"no"', "--id", "failed", "--watch").returncode == 1
    assert run(shared, "start", "fails", "--input", '"no"', "--wait", "30").returncode == 1
    assert run(shared, "start", "echo", "--input", '"yes"', "--wait", "30").returncode == 0
    assert run(shared, "watch", "failed").returncode == 1
    # After its last event, and with a kind of which it has no event.
    last = json.loads(run(shared, "show", "failed", "--json").stdout.splitlines()[0])["workflow"]["last_sequence"]
    assert run(shared, "watch", "failed", "--after", last).returncode == 1
    assert run(shared, "watch", "failed", "--kind", "timer_fired").returncode == 1
    for verb in ("cancel", "terminate"):
        assert run(shared, "start", "wait_for", "--input", '"x"', "--id", f"to-{verb}").returncode == 0
        assert run(shared, verb, f"to-{verb}", "--reason", "enough").returncode == 0
        watched = run(shared, "watch", f"to-{verb}")
        assert watched.returncode == 1
        assert "enough" in watched.stdout


def test_json_output_is_the_messages_themselves(shared: ServerProcess) -> None:
    started = run(
        shared, "start", "three", "--input", '"x"', "--id", "json", "--label", "a=b", "--wait", "30", "--json"
    )
    (reply,) = parse(started.stdout, ws.StartWorkflowResponse)
    assert isinstance(reply, ws.StartWorkflowResponse)
    assert reply.started
    assert reply.workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED

    watched = parse(run(shared, "watch", "json", "--json").stdout, event_pb2.Event)
    shown = parse(run(shared, "show", "json", "--json").stdout, ws.GetWorkflowResponse, event_pb2.Event)
    assert watched == shown[1:]
    assert [event.sequence for event in watched] == list(range(1, reply.workflow.last_sequence + 1))  # type: ignore[attr-defined]
    assert "workflow_type" in run(shared, "show", "json", "--json").stdout

    (listed,) = parse(run(shared, "list", "--label", "a=b", "--json").stdout, workflow_pb2.Workflow)
    assert isinstance(listed, workflow_pb2.Workflow)
    assert listed.workflow_id == "json"
    (typed,) = parse(run(shared, "types", "typed", "--json").stdout, ws.WorkflowType)
    assert isinstance(typed, ws.WorkflowType)
    assert "Receipt" in typed.output.json_schema
    (info,) = parse(run(shared, "info", "--json").stdout, ws.GetServerInfoResponse)
    assert isinstance(info, ws.GetServerInfoResponse)
    assert info.limits.payload_bytes == 1 << 20


def test_verbs_that_act_print_their_response_messages(shared: ServerProcess, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    run(shared, "start", "paused", "--input", json.dumps(str(flag)), "--id", "to-resume")
    watching = begin(shared, "watch", "to-resume")
    read_until(watching, "PAUSED")
    flag.touch()
    (resumed,) = parse(
        run(shared, "resume", "to-resume", "--reason", "there now", "--json").stdout,
        operator_service_pb2.ResumeWorkflowResponse,
    )
    assert resumed.workflow.workflow_id == "to-resume"  # type: ignore[attr-defined]
    rest, errors = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 0, errors
    assert "there now" in rest

    run(shared, "start", "wait_for", "--input", '"x"', "--id", "to-end")
    (ended,) = parse(run(shared, "cancel", "to-end", "--json").stdout, ws.CancelWorkflowResponse)
    assert ended.workflow.workflow_id == "to-end"  # type: ignore[attr-defined]


def test_a_signal_is_sent_once_under_one_request_id(shared: ServerProcess) -> None:
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "signalled")
    # Not to the workflow itself before it waits: one that has ended takes no second signal.
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "other")
    more = ("signal", "signalled", "more", "--force", "--data", "[1]", "--request-id", "r")
    first, again = run(shared, *more), run(shared, *more)
    assert (first.stdout, again.stdout) == (
        "sent\n",
        "ignored: the workflow already has a signal with this request id\n",
    )
    assert run(shared, "signal", "signalled", "go", "--data", '"on"').returncode == 0
    watched = run(shared, "watch", "signalled")
    assert watched.returncode == 0
    assert watched.stdout.count("signal more received") == 1
    assert 'SUCCEEDED with "x: on"' in watched.stdout
    late = run(shared, "signal", "signalled", "go", "--data", '"late"')
    assert late.returncode == 1
    assert "SUCCEEDED" in late.stderr


def test_the_input_comes_from_a_file_or_standard_input_and_is_recorded_as_it_was(
    shared: ServerProcess, tmp_path: Path
) -> None:
    text = '{ "id": "é",  "amount": 12345678901234567890, "items": [] }'
    file = tmp_path / "order.json"
    file.write_text(text, encoding="utf-8")
    for name, given, stdin in (("from-file", f"@{file}", None), ("from-stdin", "-", text)):
        done = run(shared, "start", "typed", "--input", given, "--id", name, "--wait", "30", "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        workflow = json.loads(run(shared, "show", name, "--json").stdout.splitlines()[0])["workflow"]
        assert workflow["input"]["json"] == text
        assert json.loads(workflow["output"]["json"])["total"] == 12345678901234567890


def test_a_start_under_the_same_id_says_so_and_a_different_one_is_refused(shared: ServerProcess) -> None:
    first = run(shared, "start", "echo", "--input", '"a"', "--id", "twice")
    again = run(shared, "start", "echo", "--input", '"a"', "--id", "twice")
    assert (first.stdout, again.stdout) == ("twice\n", "twice\n")
    assert first.stderr == ""
    assert "already exists" in again.stderr
    other = run(shared, "start", "echo", "--input", '"b"', "--id", "twice")
    assert other.returncode == 1
    assert other.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("start", "no_such_type"), "no_such_type"),
        (("start", "typed", "--input", '{"id": 3}'), "amount"),
        (("start", "echo", "--input", '"a"', "--id", "not an id"), "workflow_id"),
        (("show", "no-such-id"), "no-such-id"),
        (("watch", "no-such-id"), "no-such-id"),
        (("cancel", "no-such-id"), "no-such-id"),
        (("types", "no_such_type"), "mendflow types"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refusal_exits_1_and_names_what_is_wrong(
    shared: ServerProcess, arguments: tuple[str, ...], words: str
) -> None:
    done = run(shared, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_lists_filter_and_accept_the_times_they_show(shared: ServerProcess) -> None:
    for index in range(3):
        run(shared, "start", "echo", "--input", '"x"', "--id", f"list-{index}", "--label", "batch=l", "--wait", "30")
    run(shared, "start", "fails", "--input", '"x"', "--id", "list-bad", "--label", "batch=l", "--wait", "30")

    def listed(*arguments: str) -> list[str]:
        done = run(shared, "list", "--label", "batch=l", *arguments)
        assert done.returncode == 0, done.stderr
        header, *rows = done.stdout.splitlines()
        assert header.split() == ["CREATED", "STATE", "TYPE", "ID", "REASON"]
        return [row.split()[-1] for row in rows]

    assert listed() == ["list-bad", "list-2", "list-1", "list-0"]
    assert listed("--state", "succeeded") == ["list-2", "list-1", "list-0"]
    assert listed("--type", "fails") == ["list-bad"]
    assert listed("--limit", "2") == ["list-bad", "list-2"]
    cut = run(shared, "list", "--label", "batch=l", "--limit", "2").stderr
    assert cut == "more workflows match; list more with --limit 4\n"
    assert run(shared, "list", "--label", "batch=l", "--limit", "4").stderr == ""
    # The commands accept the shown times again, in any time zone.
    oldest = run(shared, "list", "--label", "batch=l").stdout.splitlines()[-1][:20]
    for zone in ("UTC", "Asia/Kolkata"):
        assert len(run(shared, "list", "--label", "batch=l", "--since", oldest, TZ=zone).stdout.splitlines()) == 5
        assert run(shared, "list", "--label", "batch=l", "--until", oldest, TZ=zone).stdout == ""


def test_a_list_by_attempts_reads_the_histories_of_open_workflows(shared: ServerProcess) -> None:
    label = ("--label", "batch=attempts")
    run(shared, "start", "retried", "--input", "2", "--id", "ended-3", *label, "--wait", "30")
    run(shared, "start", "retried", "--input", "1", "--id", "ended-2", *label, "--wait", "30")
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "open-0", *label)

    def listed(*arguments: str) -> list[str]:
        done = run(shared, "list", *label, *arguments, "--json")
        return [json.loads(line)["workflow_id"] for line in done.stdout.splitlines()]

    assert listed("--min-attempts", "1") == []
    assert listed("--min-attempts", "3", "--state", "succeeded") == ["ended-3"]
    assert listed("--min-attempts", "2", "--state", "succeeded") == ["ended-2", "ended-3"]
    assert run(shared, "list", *label, "--min-attempts", "4", "--state", "succeeded").stderr == "no workflows\n"


def test_a_list_says_in_words_what_a_workflow_waits_for(shared: ServerProcess) -> None:
    label = ("--label", "batch=reasons")
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "reason-signal", *label)
    run(shared, "start", "retried_late", "--input", '"x"', "--id", "reason-backoff", *label)
    for name, words in (("reason-signal", "waits for signal go"), ("reason-backoff", "failed: ")):
        watching = begin(shared, "watch", name)
        read_until(watching, words)
        watching.kill()
        watching.communicate()
    signal_row, backoff_row = (
        next(row for row in run(shared, "list", *label).stdout.splitlines() if name in row)
        for name in ("reason-signal", "reason-backoff")
    )
    assert signal_row.endswith("  waits for signal go")
    assert re.search(r"  backs off: slow_to_retry, attempt 2, (in \d+ s|now)$", backoff_row), backoff_row
    shown = run(shared, "show", "reason-backoff").stdout
    assert re.search(r"^  reason     backs off: slow_to_retry, attempt 2, (in \d+ s|now)$", shown, re.MULTILINE), shown
    assert "TransientError: the first attempt fails" in shown
    listed = run(shared, "list", *label, "--min-attempts", "1", "--json").stdout
    assert [json.loads(line)["workflow_id"] for line in listed.splitlines()] == ["reason-backoff"]
    for name in ("reason-signal", "reason-backoff"):
        run(shared, "terminate", name)


def test_a_workflow_is_shown_as_a_tree_of_its_calls(shared: ServerProcess) -> None:
    run(shared, "start", "branches", "--input", "[0, 0]", "--id", "tree", "--wait", "30")
    shown = run(shared, "show", "tree").stdout
    assert re.search(r"├── gather\[0\]\n│   └── \S+  succeeded in \d+\.\d\d s\n└── gather\[1\]\n", shown), shown
    run(shared, "start", "retried", "--input", "2", "--id", "tree-retried", "--wait", "30")
    shown = run(shared, "show", "tree-retried").stdout
    assert re.search(r"└── flaky  succeeded in \d\S* s, 3 attempts\n    ├── attempt 1 failed after", shown), shown
    events = run(shared, "show", "tree-retried", "--events").stdout
    assert re.search(r"^#2    \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z  flaky attempt 1 started$", events, re.MULTILINE)
    assert events.count("attempt 2 failed") == 1


def test_a_failure_is_shown_with_the_place_in_the_users_own_code(shared: ServerProcess) -> None:
    run(shared, "start", "fails", "--input", '"broken"', "--id", "placed", "--wait", "30")
    shown, failed = run(shared, "show", "placed").stdout, run(shared, "result", "placed").stderr
    for text in (shown, failed):
        assert "broken" in text
        assert re.search(r"at .+/tests/support/workflows\.py:\d+ in refuse$", text, re.MULTILINE), text
        assert "mendflow_server" not in text


def test_a_result_is_json_and_each_state_has_its_exit_code(shared: ServerProcess) -> None:
    run(shared, "start", "three", "--input", '"x"', "--id", "result-ok")
    done = run(shared, "result", "result-ok")
    assert (done.returncode, json.loads(done.stdout)) == (0, "x-1-2-3"), done.stderr
    run(shared, "start", "fails", "--input", '"no"', "--id", "result-bad")
    bad = run(shared, "result", "result-bad")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "result-bad FAILED" in bad.stderr
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "result-open")
    late = run(shared, "result", "result-open", "--timeout", "0")
    assert (late.returncode, late.stdout) == (4, "")
    assert "has not ended after 0 s" in late.stderr
    run(shared, "terminate", "result-open")
    assert run(shared, "result", "result-open").returncode == 1
    run(shared, "start", "nothing", "--id", "result-none")
    assert run(shared, "result", "result-none").stdout == "null\n"


def test_a_misspelt_signal_is_refused_with_the_declared_ones(shared: ServerProcess) -> None:
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "misspelt")
    done = run(shared, "signal", "misspelt", "og")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: the type wait_for declares the signals go, but not 'og'; send it with --force\n"
    assert "signal og received" not in run(shared, "show", "misspelt", "--events").stdout
    assert run(shared, "signal", "misspelt", "og", "--force").stdout == "sent\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_complete_commands_and_states(shared: ServerProcess, shell: str) -> None:
    script = run(shared, _MENDFLOW_COMPLETE=f"{shell}_source")
    assert script.returncode == 0, script.stderr
    assert "_MENDFLOW_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "mendflow list --state ", "COMP_CWORD": "qua" if shell == "fish" else "3"}
    found = run(shared, _MENDFLOW_COMPLETE=f"{shell}_complete", **words)
    assert "quarantined" in found.stdout


def test_help_lists_the_values_of_choices(shared: ServerProcess) -> None:
    page = " ".join(run(shared, "list", "--help").stdout.split())
    assert "pending, running, waiting, paused, quarantined" in page
    page = " ".join(run(shared, "watch", "--help").stdout.split())
    assert "attempt_failed" in page


def test_control_characters_of_a_workflow_reach_a_pipe_escaped(shared: ServerProcess) -> None:
    text = "\x1b]0;owned\x07\nsecond line € 🙂"
    run(shared, "start", "fails", "--input", json.dumps(text), "--id", "hostile", "--wait", "30")
    for verb in ("show", "watch"):
        done = run(shared, verb, "hostile")
        assert "\\x1b]0;owned\\x07\\nsecond line € 🙂" in done.stdout
        assert "\x1b" not in done.stdout
        # A character that the locale lacks does not make the command fail.
        western = run(shared, verb, "hostile", PYTHONIOENCODING="latin-1")
        assert western.returncode == done.returncode, western.stderr
        assert "second line \\u20ac \\U0001f642" in western.stdout


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


def run_in_shell(server: ServerProcess, redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with standard streams that the shell redirects or closes."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, *arguments],
        env=environment(MENDFLOW_SERVER=server.grpc_address),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


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
    # `serve` has only a log. `resume` prints what `cancel` prints.
    assert set(main.list_commands(click.Context(main))) - named == {"serve", "resume"}


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


def test_ctrl_c_ends_the_watch_and_not_the_workflow(shared: ServerProcess) -> None:
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "interrupted")
    watching = begin(shared, "watch", "interrupted")
    seen = read_until(watching, "waits for signal go")
    watching.send_signal(signal.SIGINT)
    _, printed = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 130
    assert "the workflow continues to run" in printed
    assert "Traceback" not in printed
    _, _, again = printed.partition("resume the watch with: mendflow ")
    run(shared, "signal", "interrupted", "go", "--data", '"on"')
    # With the printed command, the two watches together saw everything once.
    rest = run(shared, *shlex.split(again))
    assert rest.returncode == 0, rest.stderr
    numbers = sequences(seen + rest.stdout.splitlines())
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_watch_resumes_across_a_kill_and_reports_it(server_process: ServerProcess) -> None:
    watching = begin(server_process, "start", "wait_for", "--input", '"x"', "--id", "killed", "--watch")
    seen = read_until(watching, "waits for signal go")
    server_process.kill()
    assert watching.stderr is not None
    printed = []
    for line in watching.stderr:
        printed.append(line)
        if line.startswith("connection lost"):
            break
    server_process.start()
    run(server_process, "signal", "killed", "go", "--data", '"on"')
    rest, more = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 0
    assert printed[0] == "killed started\n"
    # Each message appears once, however often the command retried.
    assert len(printed) == 2
    assert more == "reconnected; the watch resumes\n"
    numbers = sequences(seen + rest.splitlines())
    assert numbers == list(range(1, len(numbers) + 1))
    assert rest.splitlines()[-1].endswith('SUCCEEDED with "x: on"')


def on_terminal(server: ServerProcess, *arguments: str, columns: int = 120) -> tuple[int, str]:
    """Run the command line on its own terminal. Return its exit code and everything that it wrote."""
    terminal, its_side = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(MENDFLOW_SERVER=server.grpc_address, TERM="xterm", COLUMNS=str(columns)),
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
    )
    os.close(its_side)
    written = b""
    limit = time.monotonic() + SECONDS
    with contextlib.suppress(OSError):  # A terminal reports this way that its other side is closed.
        while time.monotonic() < limit and select.select([terminal], [], [], SECONDS)[0]:
            piece = os.read(terminal, 65536)
            if not piece:
                break
            written += piece
    os.close(terminal)
    return process.wait(SECONDS), written.decode()


def test_a_terminal_gets_a_bar_and_colours(shared: ServerProcess) -> None:
    code, text = on_terminal(shared, "start", "heartbeats", "--input", "6", "--id", "bar", "--watch")
    assert code == 0
    assert "\x1b[" in text
    assert "━" in text
    # When the attempt ends, a line replaces its bar.
    assert "resumable progress 6 of 6 item 5" in text
    assert "attempt 1 failed: TransientError: half-way" in text
    assert "retries in" in text
    code, text = on_terminal(shared, "watch", "bar", "--json")
    assert code == 0
    assert "\x1b" not in text
    # Indented, because people read a terminal.
    assert '{\r\n  "sequence": "1",\r\n' in text
    one_line = text.replace("\r\n}\r\n", "}\n").replace("\r\n", "")
    assert len(parse(one_line, event_pb2.Event)) >= 6


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_gets_lines_of_its_width(shared: ServerProcess, columns: int) -> None:
    name = "wide-" + "customers-" * 18 + str(columns)
    run(shared, "start", "fails", "--input", json.dumps("注文 refused " * 30), "--id", name, "--wait", "30")
    for arguments in (("list", "--limit", "1"), ("show", name), ("watch", name)):
        text = on_terminal(shared, *arguments, columns=columns)[1]
        lines = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in text.replace("\r", "\n").split("\n")]
        assert max(map(cell_len, lines)) <= columns, arguments
        assert "注文" in text or arguments[0] == "list"


def test_a_schema_on_a_terminal_is_indented(shared: ServerProcess) -> None:
    assert '  input   {"' in run(shared, "types", "typed").stdout
    _, text = on_terminal(shared, "types", "typed")
    assert '  input   {\r\n            "' in text
    assert on_terminal(shared, "types", "typed", "--json")[1].startswith('{\r\n  "name": "typed"')


def test_a_result_on_a_terminal_is_indented_and_keeps_its_digits(shared: ServerProcess) -> None:
    order = '{"id": "é", "amount": 12345678901234567890, "items": []}'
    run(shared, "start", "typed", "--input", order, "--id", "indented", "--wait", "30")
    code, text = on_terminal(shared, "result", "indented")
    assert code == 0
    assert text.startswith("{\r\n  ")
    assert json.loads(text) == json.loads(run(shared, "result", "indented").stdout)
    assert "12345678901234567890" in text


def test_control_characters_of_a_workflow_do_not_reach_a_terminal(shared: ServerProcess) -> None:
    text = "\x1b]0;owned\x07[/bold] [red]x"
    run(shared, "start", "fails", "--input", json.dumps(text), "--id", "hostile-tty", "--wait", "30")
    code, written = on_terminal(shared, "watch", "hostile-tty")
    assert code == 1
    assert "\x1b]0;" not in written
    assert "[/bold] [red]x" in written


def test_a_server_that_serves_is_healthy(shared: ServerProcess) -> None:
    done = run(shared, "health")
    assert (done.returncode, done.stdout) == (0, "ready  SERVING\nalive  SERVING\n")
    gone = run(shared, "health", "--server", f"127.0.0.1:{free_port()}")
    assert gone.returncode == 3
    assert gone.stderr.startswith("error: ")


@pytest.mark.parametrize("taken", ["grpc", "http", "store"])
def test_a_place_that_another_server_uses_is_one_line_of_error(
    shared: ServerProcess, tmp_path: Path, taken: str
) -> None:
    places = {
        "--grpc-address": shared.grpc_address if taken == "grpc" else "127.0.0.1:0",
        "--http-address": shared.http_address if taken == "http" else "127.0.0.1:0",
        "--store": f"sqlite:///{shared.store if taken == 'store' else tmp_path / 'own.db'}",
    }
    done = serve(tmp_path, "workflows", *(part for pair in places.items() for part in pair))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("I", "E", "W"))]
    assert line.startswith("error: ")
    assert str(places[f"--{taken}-address" if taken != "store" else "--store"]).removeprefix("sqlite:///") in line
    assert "Traceback" not in done.stderr + done.stdout


def test_hold_release_and_delete_take_several_ids(shared: ServerProcess) -> None:
    for workflow_id in ("kept-1", "kept-2"):
        run(shared, "start", "echo", "--input", '"x"', "--id", workflow_id, "--wait", "30")
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "kept-open")
    done = run(shared, "hold", "kept-1", "kept-missing", "kept-open")
    assert (done.returncode, done.stdout) == (1, "kept-1 held\nkept-open held\n")
    assert 'workflow "kept-missing" not found [WORKFLOW_NOT_FOUND]' in done.stderr
    assert "  held       until mendflow release" in run(shared, "show", "kept-1").stdout
    assert "held" not in run(shared, "show", "kept-2").stdout
    assert '"held": true' in run(shared, "show", "kept-1", "--json").stdout.replace('"held":true', '"held": true')
    done = run(shared, "delete", "kept-1", "kept-2", "kept-2", "kept-open")
    assert (done.returncode, done.stdout) == (1, "kept-2 deleted\nkept-2 not found, nothing to delete\n")
    assert "is held; release it before you delete it [WORKFLOW_HELD]" in done.stderr
    assert "cancel or terminate it first [WRONG_STATE]" in done.stderr
    done = run(shared, "release", "kept-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "kept-1 released\n", "")
    done = run(shared, "delete", "kept-1", "--json")
    assert (done.returncode, done.stdout) == (0, "{}\n")
    done = run(shared, "delete", "kept-1")
    assert (done.returncode, done.stdout) == (0, "kept-1 not found, nothing to delete\n")
