"""The container part of docs/your-own-project.md: an image of one's own modules and dependencies in four lines."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import BLOCK, as_script, split_at
from tests.support.servers import ROOT, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.container.engine import Engine

PAGE = ROOT / "docs/your-own-project.md"
BEFORE, CONTAINER = split_at(PAGE, "In a container")

# It builds an image.
pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]

#: Runs the page's docker commands with names and a port of this test's own, and with the image of this checkout.
DOCKER = """
import os, sys
engine, image, own, port = {arguments!r}
command = [argument.replace("50051:50051", f"{{port}}:50051") for argument in sys.argv[1:]]
command = [{{"expenses": own, "expenses:/data": f"{{own}}:/data"}}.get(argument, argument) for argument in command]
if command[:3] == ["build", "-t", "workflow-engine"]:
    sys.exit()
if command[0] == "build":
    command[1:1] = ["--build-context", f"workflow-engine=docker-image://{{image}}"]
if command[0] == "run":
    command[1:1] = {options!r}
os.execvp(engine, [engine, *command])
"""


def test_four_lines_make_an_image_that_runs_with_a_read_only_root(engine: Engine, image: str, tmp_path: Path) -> None:
    (dockerfile,) = [block["text"] for block in BLOCK.finditer(CONTAINER) if block["file"] == "Dockerfile"]
    assert len(dockerfile.splitlines()) == 4
    own, port, tools, folder = f"expenses-{uuid.uuid4().hex}", free_port(), tmp_path / "bin", tmp_path / "project"
    tools.mkdir()
    folder.mkdir()
    for block in BLOCK.finditer(BEFORE):
        if block["file"]:
            (folder / block["file"]).write_text(block["text"], encoding="utf-8")
    options = ["--no-healthcheck", *engine.read_only]
    docker = DOCKER.format(arguments=(engine.command, image, own, port), options=options)
    (tmp_path / "docker.py").write_text(docker, encoding="utf-8")
    # Paths may hold spaces, which the first line of a script cannot.
    for name, program in (("docker", shlex.quote(str(tmp_path / "docker.py"))), ("mendflow", "-m mendflow.cli")):
        script = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {program} "$@"\n'
        (tools / name).write_text(script, encoding="utf-8")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'client'}:{ROOT / 'server'}",
        "MENDFLOW": str(ROOT),
        "MENDFLOW_SERVER": f"127.0.0.1:{port}",
    }
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", as_script(CONTAINER)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "paid under " in done.stdout
        assert engine.image(own)["Config"]["User"] == "10001:10001"
    finally:
        engine.succeeds("rm", "--force", own)
        engine.succeeds("rmi", "--force", own)
        engine.succeeds("volume", "rm", "--force", own)
