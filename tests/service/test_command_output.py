"""The command line's output and exit codes, against a gRPC server that does what a healthy one never does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from mendflow.cli import attempt_filter
from mendflow.cli.event_text import describe_event
from mendflow.v1 import event_pb2, workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from tests.support.event_samples import HOSTILE, event_of, newer_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.testing import Result

    from tests.support.scripted_server import Script

ENDINGS = {"workflow_succeeded": 0, "workflow_failed": 1, "workflow_cancelled": 1, "workflow_terminated": 1}


@pytest.mark.parametrize(("detail", "code"), ENDINGS.items())
def test_the_final_event_alone_decides_the_exit_code(
    script: Script, mendflow: Callable[..., Result], detail: str, code: int
) -> None:
    script.events = [event_of("workflow_started", {}, 1), event_of(detail, {}, 2)]
    result = mendflow("start", "t", "--watch")
    assert result.exit_code == code, result.output
    assert len(result.stdout.splitlines()) == 2
    # The server may stop right after, so the command makes no more calls.
    assert [type(call).__name__ for call in script.calls] == ["StartWorkflowRequest", "WatchWorkflowRequest"]


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1), ("TERMINATED", 1)])
def test_a_watch_that_did_not_see_the_end_asks_for_it(
    script: Script, mendflow: Callable[..., Result], state: str, code: int
) -> None:
    script.states = [int(workflow_pb2.WorkflowState.Value(f"WORKFLOW_STATE_{state}"))]
    script.events = [event_of("timer_fired", {}, 4)]
    result = mendflow("watch", "w", "--kind", "timer_fired", "--kind", "timer-started")
    assert result.exit_code == code, result.output
    watched = next(call for call in script.calls if isinstance(call, ws.WatchWorkflowRequest))
    assert list(watched.kinds) == [event_pb2.EVENT_KIND_TIMER_FIRED, event_pb2.EVENT_KIND_TIMER_STARTED]


def test_an_event_of_a_newer_server_does_not_end_the_watch(script: Script, mendflow: Callable[..., Result]) -> None:
    script.events = [newer_event(), event_of("workflow_succeeded", {}, 6)]
    result = mendflow("watch", "w", "--after", "4")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["#5", "#6"]


def test_a_server_that_stays_away_ends_the_watch_with_how_to_resume_it(
    script: Script, mendflow: Callable[..., Result]
) -> None:
    script.events, script.cut = [event_of("workflow_started", {}, 1)], True
    result = mendflow("watch", "w")
    assert result.exit_code == 3, result.output
    assert "connection lost" in result.stderr
    assert f"mendflow watch w --after 1 --server {script.address}" in result.stderr
    assert result.stdout.splitlines() == [describe_event(script.events[0])]


def test_a_long_wait_is_split_into_waits_that_servers_accept(script: Script, mendflow: Callable[..., Result]) -> None:
    script.states = [int(workflow_pb2.WORKFLOW_STATE_RUNNING)] * 3 + [int(workflow_pb2.WORKFLOW_STATE_SUCCEEDED)]
    result = mendflow("start", "t", "--wait", "3600")
    assert result.exit_code == 0, result.output
    waits = [call.wait.seconds for call in script.calls if isinstance(call, ws.GetWorkflowRequest)]
    assert len(waits) == 3
    assert all(0 < seconds <= 60 for seconds in waits)


def test_a_wait_that_is_over_reports_that_the_workflow_continues(
    script: Script, mendflow: Callable[..., Result]
) -> None:
    script.states = [int(workflow_pb2.WORKFLOW_STATE_RUNNING)]
    result = mendflow("start", "t", "--wait", "0")
    assert result.exit_code == 1
    assert "it continues to run" in result.stderr
    assert "RUNNING" in result.stdout


@pytest.mark.parametrize(
    ("ready", "alive", "code"), [("SERVING", "SERVING", 0), ("NOT_SERVING", "SERVING", 1), ("SERVICE_UNKNOWN", "", 1)]
)
def test_health_shows_ready_and_alive_separately(
    script: Script, mendflow: Callable[..., Result], ready: str, alive: str, code: int
) -> None:
    value = health_pb2.HealthCheckResponse.ServingStatus.Value
    script.statuses = {"": int(value(ready)), "liveness": int(value(alive or "NOT_SERVING"))}
    script.info.health_reasons.append(f"the store is full {HOSTILE}")
    script.info.health_warnings.append("closed attempts whose code still runs: 1")
    result = mendflow("health")
    assert result.exit_code == code
    lines = result.stdout.splitlines()
    assert lines[:2] == [f"ready  {ready}", f"alive  {alive or 'NOT_SERVING'}"]
    assert lines[2].startswith("  reason   the store is full ")
    assert lines[2].isprintable()
    assert lines[3:] == ["  warning  closed attempts whose code still runs: 1"]
    assert json.loads(mendflow("health", "--json").stdout) == {
        "ready": ready,
        "alive": alive or "NOT_SERVING",
        "reasons": list(script.info.health_reasons),
        "warnings": list(script.info.health_warnings),
    }


def test_a_list_by_attempts_reads_a_bounded_number_of_histories_and_says_so(
    script: Script, mendflow: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    script.listed = [workflow_pb2.Workflow(workflow_id=f"w{index}", last_sequence=9) for index in range(4)]
    script.listed.insert(0, workflow_pb2.Workflow(workflow_id="short", last_sequence=3))
    script.events = [event_of("attempt_started", {"step_key": "s", "attempt": 2})]
    monkeypatch.setattr(attempt_filter, "MOST_HISTORIES", 3)
    result = mendflow("list", "--min-attempts", "2")
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == ["w0", "w1", "w2"]
    assert "histories were read; narrow the list with --type" in result.stderr
    asked = [call.workflow_id for call in script.calls if isinstance(call, ws.ListEventsRequest)]
    assert sorted(asked) == ["w0", "w1", "w2"], "a short history needs no reading"
    listing = next(call for call in script.calls if isinstance(call, ws.ListWorkflowsRequest))
    assert set(listing.states) == set(attempt_filter.OPEN_STATES)


@pytest.mark.parametrize(("code", "words"), [(0, "paused: the workflow function raised KeyError"), (1, "")])
def test_a_result_reports_once_why_it_waits(
    script: Script, mendflow: Callable[..., Result], code: int, words: str
) -> None:
    ending = workflow_pb2.WORKFLOW_STATE_SUCCEEDED if code == 0 else workflow_pb2.WORKFLOW_STATE_CANCELLED
    script.states = [int(workflow_pb2.WORKFLOW_STATE_PAUSED)] * 3 * (not code) + [int(ending)]
    script.explanation = "the workflow function raised KeyError"
    result = mendflow("result", "w")
    assert result.exit_code == code
    assert result.stderr == (f"w PAUSED: {words}\n" if words else "w CANCELLED\n")
    assert result.stdout == ("null\n" if code == 0 else "")


def test_a_server_without_reasons_still_shows_its_health(script: Script, mendflow: Callable[..., Result]) -> None:
    script.no_info = True
    result = mendflow("health")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[:2] == ["ready  SERVING", "alive  SERVING"]
    assert "the server did not return its reasons" in result.stdout


def refusal(code: int, reason: str, violations: Sequence[tuple[str, str]] = ()) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=f"refused {HOSTILE}")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="mendflow"))
    bad = error_details_pb2.BadRequest()
    for name, description in violations:
        bad.field_violations.add(field=name, description=description)
    status.details.add().Pack(bad)
    return status


def test_a_refusal_names_the_reason_and_each_field(script: Script, mendflow: Callable[..., Result]) -> None:
    script.refusal = refusal(
        code_pb2.INVALID_ARGUMENT,
        "INVALID_FIELD",
        [("workflow_id", f"at most 200 {HOSTILE}"), ("labels", "at most 32")],
    )
    result = mendflow("start", "t")
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: refused ")
    assert lines[0].endswith("[INVALID_FIELD]")
    assert lines[1].startswith("  workflow_id: at most 200 ")
    assert lines[2:] == ["  labels: at most 32"]
    assert all(char.isprintable() for line in lines for char in line)


def test_a_draining_server_counts_as_reached(script: Script, mendflow: Callable[..., Result]) -> None:
    script.refusal = refusal(code_pb2.UNAVAILABLE, "DRAINING")
    result = mendflow("list")
    assert result.exit_code == 1
    assert "[DRAINING]" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "w"), ("show", "w", "--events"), ("watch", "w"), ("start", "t", "--wait", "1")]
)
def test_hostile_text_reaches_the_terminal_escaped(
    script: Script, mendflow: Callable[..., Result], arguments: tuple[str, ...]
) -> None:
    script.explanation = HOSTILE
    failure = {"type": "x.Bad", "message": HOSTILE, "cause": {"type": "x.Cause", "message": HOSTILE}}
    script.events = [
        event_of("progress_reported", {"message": HOSTILE}, 1),
        event_of("workflow_failed", {"failure": failure}, 2),
    ]
    result = mendflow(*arguments)
    assert "owned" in result.stdout
    assert all(char.isprintable() for line in result.stdout.split("\n") for char in line)
