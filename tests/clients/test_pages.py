"""The pages of docs/clients, run word for word in an empty folder. Each ends with a watched workflow."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.clients.programs import PROGRAMS, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

#: A block of code; before it, if it is a file, the file's name in a line of its own.
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
EVENTS = [
    "workflow_started",
    *["attempt_started", "attempt_succeeded"] * 2,
    "timer_started",
    "timer_fired",
    "attempt_started",
    "attempt_succeeded",
    "progress_reported",
    "workflow_succeeded",
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", list(PROGRAMS))
def test_a_page_leads_from_an_empty_folder_to_a_watched_workflow(
    language: str, tmp_path: Path, order_server: ServerProcess
) -> None:
    program = PROGRAMS[language]
    if program.lacks:
        pytest.skip(f"the {language} page needs {program.lacks}")
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {**program.environment, "MENDFLOW": str(ROOT), "MENDFLOW_SERVER": order_server.grpc_address}
    commands = "set -e\n"
    output = ""
    for block in BLOCK.finditer((ROOT / "docs" / "clients" / f"{language}.md").read_text("utf-8")):
        if block["file"]:
            (folder / block["file"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / block["file"]).write_text(block["text"], encoding="utf-8")
        elif block["kind"] == "sh":
            # Pass the exported variables of each block to the next block, as one shell would.
            script = f"{commands}{block['text']}"
            commands += "".join(f"{line}\n" for line in block["text"].splitlines() if line.startswith("export "))
            done = subprocess.run(
                ["/bin/sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block['text']}\n{done.stdout}{done.stderr}"
            output = done.stdout
    assert _events(output) == EVENTS


def _events(output: str) -> list[str]:
    """Return the kinds of the events in a program's output, in the style of the protos."""
    kinds = [line.split()[1] for line in output.splitlines() if re.match(r"\d+ \w", line)]
    return [re.sub(r"(?<=[a-z])([A-Z])", r"_\1", kind).lower() for kind in kinds]
