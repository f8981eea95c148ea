"""docs/reference.md and docs/errors.md are what the protos' comments say, and no status code is left out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc

from mendflow.v1 import error_reason_pb2, event_pb2, workflow_service_pb2
from mendflow_server.api import status_codes

ROOT = Path(__file__).resolve().parents[2]
PROTOS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "protos/mendflow/v1").glob("*.proto"))
REFERENCE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
STATUS_CODES = (ROOT / "docs/clients/status-codes.md").read_text(encoding="utf-8")


def test_the_committed_reference_is_fresh(tmp_path: Path) -> None:
    output = tmp_path / "reference.md"
    subprocess.run([sys.executable, str(ROOT / "tools/generate_reference.py"), "--output", str(output)], check=True)
    assert output.read_text(encoding="utf-8") == REFERENCE, "make reference"


def test_the_committed_page_of_errors_is_fresh(tmp_path: Path) -> None:
    output = tmp_path / "errors.md"
    command = [sys.executable, "-m", "tools.generate_errors", "--output", str(output)]
    subprocess.run(command, check=True, cwd=ROOT)
    assert output.read_text(encoding="utf-8") == ERRORS, "make reference"


def test_it_has_every_rpc_field_and_value() -> None:
    for service in workflow_service_pb2.DESCRIPTOR.services_by_name.values():
        for rpc in service.methods:
            assert f"### {service.name}/{rpc.name}\n" in REFERENCE
    for file in (workflow_service_pb2.DESCRIPTOR, event_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            section = REFERENCE.split(f"\n### {message.name}\n")[1].split("\n#")[0]
            for field in message.fields:
                assert f"| `{field.name}` | {field.number} |" in section
    for name, number in error_reason_pb2.ErrorReason.items():
        assert f"| `{name}` | {number} |" in REFERENCE


def test_the_status_lists_are_tables() -> None:
    section = REFERENCE.split("\n### WorkflowService/StartWorkflow\n")[1].split("\n#")[0]
    assert "| `ALREADY_EXISTS` | ALREADY_STARTED: a workflow of another type or input has the id |" in section
    assert "| `INVALID_ARGUMENT` | INVALID_FIELD, UNKNOWN_WORKFLOW_TYPE, INPUT_MISMATCH, TOO_LARGE |" in section
    assert not re.search(r"^(INVALID_ARGUMENT|NOT_FOUND|UNAVAILABLE) ", REFERENCE, re.MULTILINE)


def test_every_link_of_the_reference_has_its_place() -> None:
    places = {match.lower() for match in re.findall(r"^#+ (\S+)$", REFERENCE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", REFERENCE)) <= places


def test_every_code_and_reason_is_in_the_table_of_what_to_do() -> None:
    codes = {code.name for code in grpc.StatusCode if re.search(rf"\b{code.name}\b", PROTOS)} - {"OK"}
    assert {"CANCELLED", "DEADLINE_EXCEEDED", "OUT_OF_RANGE"} <= codes
    table = {
        (code, reason) for reason, code in re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| `(\w+)` \|", ERRORS, re.MULTILINE)
    }
    without_a_reason = set(re.findall(r"^\| `(\w+)` \|", STATUS_CODES, re.MULTILINE))
    assert codes <= {code for code, _ in table} | without_a_reason
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - an enum's wrapper is no dict
    assert set(status_codes.STATUS_CODES) == reasons
    assert table == {(code.name, reason) for reason, code in status_codes.STATUS_CODES.items()}
