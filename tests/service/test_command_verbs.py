"""The verbs of the command line against a server process: what each does, prints and refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import event_pb2, operator_service_pb2, workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from tests.support.command_line import parse, run
from tests.support.command_process import SECONDS, begin, read_until
from tests.support.servers import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import ServerProcess


def test_json_output_is_the_messages_themselves(shared: ServerProcess) -> None:
    started = run(
        shared, "start", "three", "--input", '"x"', "--id", "json", "--label", "a=b", "--wait", "30", "--json"
    )
    (reply,) = parse(started.stdout, ws.StartWorkflowResponse)
    assert reply.started
    assert reply.workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED

    watched = parse(run(shared, "watch", "json", "--json").stdout, event_pb2.Event)
    shown, _, events = run(shared, "show", "json", "--json").stdout.partition("\n")
    (got,) = parse(shown, ws.GetWorkflowResponse)
    assert got.workflow == reply.workflow
    assert parse(events, event_pb2.Event) == watched
    assert [event.sequence for event in watched] == list(range(1, reply.workflow.last_sequence + 1))
    assert "workflow_type" in shown

    (listed,) = parse(run(shared, "list", "--label", "a=b", "--json").stdout, workflow_pb2.Workflow)
    assert listed.workflow_id == "json"
    (typed,) = parse(run(shared, "types", "typed", "--json").stdout, ws.WorkflowType)
    assert "Receipt" in typed.output.json_schema
    (info,) = parse(run(shared, "info", "--json").stdout, ws.GetServerInfoResponse)
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
    assert resumed.workflow.workflow_id == "to-resume"
    rest, errors = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 0, errors
    assert "there now" in rest

    run(shared, "start", "wait_for", "--input", '"x"', "--id", "to-end")
    (ended,) = parse(run(shared, "cancel", "to-end", "--json").stdout, ws.CancelWorkflowResponse)
    assert ended.workflow.workflow_id == "to-end"


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


def test_a_misspelt_signal_is_refused_with_the_declared_ones(shared: ServerProcess) -> None:
    run(shared, "start", "wait_for", "--input", '"x"', "--id", "misspelt")
    done = run(shared, "signal", "misspelt", "og")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('error: name: workflow type "wait_for" declares the signals go, but not "og"; ')
    assert "(--force at the command line) [INVALID_FIELD]" in done.stderr
    assert "signal og received" not in run(shared, "show", "misspelt", "--events").stdout
    assert run(shared, "signal", "misspelt", "og", "--force").stdout == "sent\n"


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


def test_a_server_that_serves_is_healthy(shared: ServerProcess) -> None:
    done = run(shared, "health")
    assert (done.returncode, done.stdout) == (0, "ready  SERVING\nalive  SERVING\n")
    gone = run(shared, "health", "--server", f"127.0.0.1:{free_port()}")
    assert gone.returncode == 3
    assert gone.stderr.startswith("error: ")
