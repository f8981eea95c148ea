"""What `list` and `show` print about workflows, in a pipe."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.support.command_line import run
from tests.support.command_process import begin, read_until

if TYPE_CHECKING:
    from tests.support.servers import ServerProcess


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
    assert "ThrottledError: the first attempt fails" in shown
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
