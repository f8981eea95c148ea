"""A watch at the command line: its lines, its exit codes, Ctrl-C, and a server that is killed."""

from __future__ import annotations

import json
import re
import shlex
import signal
from typing import TYPE_CHECKING

from tests.support.command_line import run, sequences
from tests.support.command_process import SECONDS, begin, read_until

if TYPE_CHECKING:
    from tests.support.servers import ServerProcess


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
