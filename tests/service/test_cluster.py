"""The demo of a cluster: the tests check its claims independently, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from examples.database import shown
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Postgres

ROOT = Path(__file__).parents[2]


def left_running(*directories: Path) -> list[list[str]]:
    """Return the command lines of processes that run in a directory or name one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [process.cwd(), *process.cmdline()]
            if any(str(directory) in word for word in words for directory in directories):
                found.append(process.cmdline())
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files, which the user of PostgreSQL can reach."""
    directory = Path(tempfile.mkdtemp(prefix="cluster-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples.cluster", "--directory", str(directory), *arguments]


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, *arguments), cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=115, check=False,
    )  # fmt: skip


def logged(directory: Path, replica: str, event: str) -> list[dict[str, Any]]:
    lines = (directory / f"{replica}.log").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def check(done: subprocess.CompletedProcess[str], directory: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    findings = done.stdout.partition("── what happened")[2]
    assert "✗" not in findings
    # Who took over what, by the histories, is what the replicas logged.
    taken = [(line["previous_replica_id"], line["workflows"]) for name in "BC" for line in logged(
        directory, name, "replica_taken_over")]  # fmt: skip
    claims = re.findall(r"✓ [AB]: (\d+) campaigns continued elsewhere", findings)
    assert len(taken) == len(claims) == 2
    assert sum(count for _, count in taken) == sum(map(int, claims))
    (fenced,) = logged(directory, "B", "replica_fenced")
    assert f"{fenced['previous_replica_id']} is now {fenced['replica_id']}" in findings
    assert fenced["previous_replica_id"] in dict(taken)
    mailbox = (directory / "mailbox.jsonl").read_text(encoding="utf-8").splitlines()
    sent = {json.loads(line)["message_id"] for line in mailbox}
    assert f"arrived: all {len(sent)} messages" in findings


@pytest.mark.proof
def test_the_cluster_is_plain_when_piped_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    directory = tmp_path / "a checkout with spaces"
    done = run(directory, TMPDIR=str(temporary))
    check(done, directory)
    assert left_running(directory, temporary) == []
    assert list(temporary.glob("mendflow-cluster-*")) == []


@pytest.mark.proof
async def test_the_cluster_leaves_nothing_in_a_database_of_the_user(tmp_path: Path, postgres: Postgres) -> None:
    done = run(tmp_path / "cluster", "--store", postgres.url(tcp=True))
    check(done, tmp_path / "cluster")
    assert await postgres.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mendflow_cluster%'") == []
    assert left_running(tmp_path) == []


@pytest.mark.proof
@pytest.mark.parametrize("until", ["PostgreSQL", "SIGSTOP"])
def test_a_cluster_that_is_interrupted_leaves_nothing(tmp_path: Path, temporary: Path, until: str) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command(tmp_path / "cluster"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(until in line for line in process.stdout)
        assert left_running(temporary)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert left_running(tmp_path, temporary) == []
    assert list(temporary.glob("mendflow-cluster-*")) == []


def test_a_database_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    done = run(tmp_path / "cluster", "--store", f"postgresql://ada:secret@127.0.0.1:{free_port()}/shop?password=secret")
    assert done.returncode == 1
    assert "failed at postgresql://ada:***@127.0.0.1:" in done.stderr
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://u@h:1/d?search_path=s", "postgresql://u@h:1/d"),
        ("postgresql://u:p@ss@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql:///d?host=/tmp&password=p", "postgresql:///d"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, text: str) -> None:
    assert shown(url) == text
