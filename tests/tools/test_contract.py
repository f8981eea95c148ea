"""The check of the v1 promise works: buf compares protos/ with the committed tools/contract.binpb."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.buf import run_buf

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[2]
BREAKS = [
    ("workflow_service.proto", r"  string workflow_type = 2;\n", "", "deleted"),
    ("workflow_service.proto", r"bool started = 2;", "bool started = 3;", "deleted"),
    ("workflow_service.proto", r"int64 after_sequence = 2;", "string after_sequence = 2;", "changed type"),
    ("workflow_service.proto", r"  rpc GetServerInfo\(.*\n", "", "deleted"),
    ("workflow.proto", r"  WORKFLOW_STATE_PAUSED = 4;\n", "", "deleted"),
    ("error_reason.proto", r"ERROR_REASON_DRAINING = 15", "ERROR_REASON_CLOSING = 15", "changed name"),
    ("event.proto", r"    SignalTaken signal_taken = 52;\n", "", "deleted"),
]


def breaking(protos: Path) -> subprocess.CompletedProcess[str]:
    """Return what .ci/run runs."""
    return run_buf("breaking", str(protos), "--against", str(ROOT / "tools/contract.binpb"))


def changed(folder: Path, file: str, pattern: str, replacement: str) -> Path:
    """Return a copy of the protos with one change in one file."""
    protos = folder / "protos"
    shutil.copytree(ROOT / "protos", protos)
    path = protos / "mendflow/v1" / file
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), count=1)
    assert count == 1
    path.write_text(text, encoding="utf-8")
    return protos


def test_nothing_that_was_promised_is_broken() -> None:
    done = breaking(ROOT / "protos")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("file", "pattern", "replacement", "complaint"), BREAKS)
def test_a_break_is_refused(tmp_path: Path, file: str, pattern: str, replacement: str, complaint: str) -> None:
    done = breaking(changed(tmp_path, file, pattern, replacement))
    assert done.returncode == 100, done.stderr
    assert complaint in done.stdout
    assert file in done.stdout


def test_an_addition_is_no_break(tmp_path: Path) -> None:
    added = "bool started = 2;\n  // New.\n  string added = 3;"
    done = breaking(changed(tmp_path, "workflow_service.proto", r"bool started = 2;", added))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
